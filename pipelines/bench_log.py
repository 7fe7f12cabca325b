"""A generated log of any length, as large to read as nuScenes, for measuring everything but the work itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pipelines.prepare.source import FileCheck, Hole, Keyframe, MapImage
from schemas.datasets import NUSCENES_CAMERAS
from schemas.records import BoxRecord, CameraRecord, LidarRecord, RigidPose, SampleRecord

BOXES: Final = 34
"""Boxes of a keyframe, the mean of nuScenes."""
SWEEPS: Final = 9
"""Sweeps between two keyframes."""
SCENE_LENGTH: Final = 40
"""Keyframes of a scene."""
VAL_EVERY: Final = 6
"""Every so many-th scene is in `val`, the others are in `train`."""


@dataclass(frozen=True)
class GeneratedLog:
    """A source of records that stand for nothing: they differ in token, scene, frame, time and splits alone."""

    samples: int

    def fingerprint(self) -> dict[str, str]:
        """What the records are made of: their number."""
        return {"generated": hashlib.sha256(str(self.samples).encode()).hexdigest()}

    def raw_files(self) -> Sequence[Path]:
        """There are none."""
        return ()

    def keyframes(self) -> list[Keyframe]:
        """All keyframes, ordered by scene, then time."""
        return [_keyframe(number) for number in range(self.samples)]

    def read(self, keyframe: Keyframe) -> SampleRecord:
        """Record of one keyframe."""
        changes = {
            "token": keyframe.token,
            "scene": keyframe.scene,
            "frame": keyframe.frame,
            "timestamp_us": 500_000 * keyframe.frame,
            "splits": keyframe.splits,
        }
        return _template().model_copy(update=changes)

    def map_image(self, scene: str) -> MapImage | None:
        """There is no map."""
        return None

    def file_check(self) -> FileCheck:
        """There are no files."""
        return _no_files


def _no_files(record: SampleRecord) -> Sequence[Hole]:
    """Accepts a record without looking for its files."""
    return ()


def _keyframe(number: int) -> Keyframe:
    scene = number // SCENE_LENGTH
    split = "val" if scene % VAL_EVERY == VAL_EVERY - 1 else "train"
    return Keyframe(f"{number:032x}", f"scene-{scene:05d}", number % SCENE_LENGTH, (split,))


MOUNTING = RigidPose(
    rotation_wxyz=(0.5720320396729045, -0.0016977771610471074, 0.011798001930183783, -0.8201446642457809),
    translation_m=(0.94303934931981821, 0.118089037917650971, 1.8402612348742193),
)


@cache
def _template() -> SampleRecord:
    pose = MOUNTING.model_copy(update={"translation_m": (411.3039349319818, 1180.8903791765097, 0.2394121348742193)})
    return SampleRecord(
        token="0",
        scene="scene",
        frame=0,
        timestamp_us=0,
        previous=None,
        next=None,
        cameras={channel: _camera(channel, pose) for channel in NUSCENES_CAMERAS},
        lidar=_sweep(0, pose),
        global_from_vehicle=pose,
        sweeps=tuple(_sweep(number, pose) for number in range(SWEEPS)),
        boxes=tuple(_box(number, pose) for number in range(BOXES)),
        map_window=None,
        splits=(),
    )


def _camera(channel: str, pose: RigidPose) -> CameraRecord:
    return CameraRecord(
        token=f"{1:032x}",
        path=f"samples/{channel}/n015-2018-07-24-11-22-45+0800__{channel}__1532402927612460.jpg",
        timestamp_us=1532402927612460,
        width=1600,
        height=900,
        intrinsics=((1266.417203046554, 0.0, 816.2670197447984), (0.0, 1266.417203046554, 491.5), (0.0, 0.0, 1.0)),
        ego_from_camera=MOUNTING,
        global_from_ego=pose,
    )


def _sweep(number: int, pose: RigidPose) -> LidarRecord:
    return LidarRecord(
        token=f"{number:032x}",
        path="sweeps/LIDAR_TOP/n015-2018-07-24-11-22-45+0800__LIDAR_TOP__1532402927647951.pcd.bin",
        timestamp_us=1532402927647951 + 50_000 * number,
        ego_from_lidar=MOUNTING,
        global_from_ego=pose,
    )


def _box(number: int, pose: RigidPose) -> BoxRecord:
    return BoxRecord(
        token=f"{number:032x}",
        instance=f"{number + BOXES:032x}",
        category="human.pedestrian.adult",
        label=7,
        global_from_box=pose,
        size_lwh_m=(0.669, 0.621, 1.642),
        num_lidar_pts=number,
    )
