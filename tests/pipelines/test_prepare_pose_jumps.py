"""Poses that cannot be, on drives made by hand: 10 m/s along x, a keyframe every 0.5 s."""

from __future__ import annotations

import math

import pytest

from pipelines.prepare.pose_jumps import find_jumps
from schemas.records import LidarRecord, RigidPose, SampleRecord

AHEAD = (1.0, 0.0, 0.0, 0.0)


def keyframe(frame: int, x_m: float | None = None, rotation: tuple[float, ...] = AHEAD) -> SampleRecord:
    """Keyframe ``frame`` with one sweep 0.25 s before it, at ``x_m`` or where the drive should be."""
    place = 5.0 * frame if x_m is None else x_m
    lidars = [
        LidarRecord(
            token=f"{frame}-{offset}",
            path=f"{frame}-{offset}.bin",
            timestamp_us=500_000 * frame - 250_000 * offset,
            ego_from_lidar=RigidPose(rotation_wxyz=AHEAD, translation_m=(0.0, 0.0, 1.8)),
            global_from_ego=RigidPose(rotation_wxyz=rotation, translation_m=(place - 2.5 * offset, 0.0, 0.0)),
        )
        for offset in (1, 0)
    ]
    return SampleRecord(
        token=f"token-{frame}", scene="drive", frame=frame, timestamp_us=500_000 * frame, previous=None, next=None,
        cameras={},
        global_from_vehicle=lidars[1].global_from_ego, lidar=lidars[1],
        sweeps=(lidars[0],), boxes=(), map_window=None, splits=("train",),
    )  # fmt: skip


def test_a_steady_drive_has_no_jumps() -> None:
    assert find_jumps([keyframe(frame) for frame in range(6)]) == {}
    assert find_jumps([keyframe(0)]) == {}
    assert find_jumps([]) == {}


@pytest.mark.parametrize("bad", [0, 2, 5])
def test_one_outlier_is_named_wherever_it_stands(bad: int) -> None:
    drive = [keyframe(frame, 200.0 if frame == bad else None) for frame in range(6)]
    (message,) = find_jumps(drive).values()
    assert f"sample token-{bad}" in message and "the limit is 60 m/s" in message and "ego_pose" in message


def test_what_is_missing_in_between_is_no_jump() -> None:
    """Ten keyframes are missing: 50 m in 5 s are 10 m/s."""
    assert find_jumps([keyframe(frame) for frame in (0, 1, 12, 13)]) == {}


def test_the_shorter_side_of_a_shift_goes() -> None:
    drive = [keyframe(frame, 5.0 * frame + (500.0 if frame >= 4 else 0.0)) for frame in range(6)]
    assert sorted(find_jumps(drive)) == ["token-4", "token-5"]
    assert sorted(find_jumps(drive[3:])) == ["token-3"]


def test_a_sweep_that_jumps_condemns_its_keyframe() -> None:
    drive = [keyframe(frame) for frame in range(4)]
    pose = RigidPose(rotation_wxyz=AHEAD, translation_m=(7.5, 40.0, 0.0))
    sweep = drive[2].sweeps[0].model_copy(update={"global_from_ego": pose})
    drive[2] = drive[2].model_copy(update={"sweeps": (sweep,)})
    jumps = find_jumps(drive)
    assert list(jumps) == ["token-2"]
    assert "2-1.bin" in jumps["token-2"]
    assert "40.1 m in 0.25 s" in jumps["token-2"]  # from (5, 0) to (7.5, 40): sqrt(2.5^2 + 40^2) = 40.08


def test_a_sudden_turn_is_a_jump() -> None:
    half = math.sqrt(0.5)
    drive = [keyframe(frame, None, (half, 0.0, 0.0, half) if frame == 1 else AHEAD) for frame in range(4)]
    (message,) = find_jumps(drive).values()
    assert "sample token-1" in message and "a turn of 90 degrees in 0.25 s" in message
