"""Where RayIoU's rays start: the LiDAR's places at the keyframes of a scene, seen from one of them.

Source: SparseOcc (arXiv 2312.17118), published evaluation, whose rounding to 32 bits is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64

from protoocc.data import ShardDataset
from schemas.geometry import Pose, VoxelGrid, invert_rigid

ORIGINS: Final = 8
"""A keyframe has at most so many."""
REACH_M: Final = 39.0
"""Rays start where |x| and |y| are smaller than this; the grid of Occ3D ends at 40 m."""
_BORDER_M: Final = 1e-3
"""The vehicle itself stands on the border of a grid that begins there."""


def lidar_places(
    global_from_lidar: Sequence[Pose], number: int, ego_from_lidar: Pose, grid: VoxelGrid
) -> Float64[np.ndarray, "o 3"]:
    """Where the rays of one keyframe start, metres in its ego frame: at most eight places of its scene's LiDAR.

    Of a grid that begins at the vehicle, places behind it are left out: nothing is known between them and the grid.

    Args:
        global_from_lidar: of all evaluated keyframes of the scene, in order of time.
        number: of the keyframe among them.
        ego_from_lidar: mounting at the keyframe.
        grid: of labels and predictions.
    """
    lidar_from_global = invert_rigid(global_from_lidar[number])
    places = np.array([(lidar_from_global @ pose)[:3, 3] for pose in global_from_lidar])
    places[number] = 0
    local = places.astype(np.float32) @ ego_from_lidar[:3, :3].T + ego_from_lidar[:3, 3]
    is_near = (np.abs(local[:, :2]) < REACH_M).all(axis=1)
    if grid.looks_ahead:
        is_near &= local[:, 0] > -_BORDER_M
    near: Float64[np.ndarray, "o 3"] = local[is_near]
    if len(near) <= ORIGINS:
        return near
    return near[np.round(np.linspace(0, len(near) - 1, ORIGINS)).astype(np.int64)]


class RayPlaces:
    """`lidar_places` of every sample of a split; keyframes that the split leaves out start no rays."""

    def __init__(self, dataset: ShardDataset) -> None:
        """Reads the poses of all samples.

        Raises:
            DataError: a sample is damaged.
        """
        self._grid = dataset.shards.dataset.grid
        self._samples = [sample for _, sample in dataset.shards.samples]
        self._scenes: dict[str, list[Pose]] = {}
        self._numbers: dict[int, int] = {}
        self._mountings: dict[int, Pose] = {}
        for index in sorted(range(len(self._samples)), key=lambda index: self._samples[index].frame):
            global_from_ego, ego_from_lidar = dataset.poses(index)
            if ego_from_lidar is not None:
                scene = self._scenes.setdefault(self._samples[index].scene, [])
                self._numbers[index], self._mountings[index] = len(scene), ego_from_lidar
                scene.append(global_from_ego @ ego_from_lidar)

    @property
    def missing(self) -> str | None:
        """Key of a sample that does not say where its LiDAR stands; None where all do."""
        return next((sample.key for index, sample in enumerate(self._samples) if index not in self._numbers), None)

    def of(self, index: int) -> Float64[np.ndarray, "o 3"]:
        """Places of a sample by its number in the split, metres in its ego frame."""
        scene = self._scenes[self._samples[index].scene]
        return lidar_places(scene, self._numbers[index], self._mountings[index], self._grid)
