"""Records: what a pose takes, lines of the index, sensors that are not there."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from schemas.errors import DataError
from schemas.records import CameraRecord, RigidPose, SampleRecord, index_lines, shift_index


def pose(x_m: float = 0.0) -> RigidPose:
    return RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(x_m, 0.0, 0.0))


def record(token: str) -> SampleRecord:
    """Cameras alone: the vehicle stood at x = 5 for the ego frame, at x = 7 for the image; the camera at x = 1."""
    camera = CameraRecord(
        token="c", path="c.jpg", timestamp_us=0, width=4, height=3, ego_from_camera=pose(1.0),
        global_from_ego=pose(7.0),
        intrinsics=((1.0, 0.0, 2.0), (0.0, 1.0, 1.5), (0.0, 0.0, 1.0)),
    )  # fmt: skip
    return SampleRecord(
        token=token, scene="s", frame=0, timestamp_us=0, previous=None, next=None, cameras={"c": camera},
        global_from_vehicle=pose(5.0), lidar=None, sweeps=(), boxes=(), map_window=None, splits=("train",),
    )  # fmt: skip


@pytest.mark.parametrize("rotation", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0), (math.inf, 0.0, 0.0, 1.0)])
def test_rotations_that_are_none_are_refused(rotation: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValidationError, match="is no quaternion"):
        RigidPose(rotation_wxyz=rotation, translation_m=(0.0, 0.0, 0.0))
    with pytest.raises(ValidationError, match="is no quaternion"):
        RigidPose.model_validate_json('{"rotation_wxyz": [0, 0, 0, 0], "translation_m": [0, 0, 0]}')


def test_rotations_of_any_length_are_taken() -> None:
    assert RigidPose(rotation_wxyz=(2.0, 0.0, 0.0, 0.0), translation_m=(1.0, 2.0, 3.0)).matrix[0, 0] == 1.0


def test_the_ego_frame_does_not_come_from_the_lidar() -> None:
    sample = SampleRecord.model_validate_json(record("a").model_dump_json())
    assert sample.global_from_ego[0, 3] == 5.0
    assert sample.camera_from_ego("c")[0, 3] == 5.0 - 7.0 - 1.0
    with pytest.raises(DataError, match="sample a has no LiDAR sweep"):
        sample.keyframe_sweep  # noqa: B018  the property raises


def test_joined_indexes_are_the_index_of_the_whole() -> None:
    lines = [(record(token), b"x" * length) for token, length in (("a", 5), ("b", 70), ("c", 1))]
    joined = [*index_lines(lines[:1]), *shift_index(index_lines(lines[1:]), 5)]
    assert joined == list(index_lines(lines))
    assert joined[2] == b'["c", "s", 0, ["train"], 75, 76]\n'
