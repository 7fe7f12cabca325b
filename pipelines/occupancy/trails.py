"""Ghost trails: accumulated sweeps leave copies of a moving object along its path where its boxes do not take them out.

Voxels on the path, outside of all boxes of the keyframe, stay free when labels are right and hold a trail when not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from pipelines.occupancy.tracks import Track, tracks_of
from schemas.geometry import Pose, VoxelGrid, invert_rigid, transform_points
from schemas.records import SampleRecord

_MOVED_M: Final = 1.0
"""An object moves if its middle is so far from where the scene first shows it in any keyframe: boxes of parked ones
wander by decimetres. Part of the definition of ``trail_share``."""


def swept_voxels(records: Sequence[SampleRecord], index: int, grid: VoxelGrid) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels on the paths of moving objects, outside of all boxes of the keyframe: where ghost trails would be.

    Boxes move linearly between keyframes; a voxel lies in a box if its centre does. Boxes of the keyframe itself are
    taken half a voxel larger. Heights are those of the tables, so on slopes far parts of a path lie a little off.

    Args:
        records: all keyframes of the scene, in order of time.
        index: position of the keyframe in ``records``.
        grid: of the labels, ego frame of that keyframe.

    Raises:
        DataError: a box has no positive size.
    """
    ego_from_global = invert_rigid(records[index].global_from_ego)
    swept = np.zeros(grid.shape, dtype=bool)
    for track in tracks_of(records):
        steps = np.linalg.norm(track.centers_m - track.centers_m[0], axis=1)
        if steps.max() < _MOVED_M:
            continue
        half = np.array(track.size_lwh_m) / 2
        for pose in _along(track, grid.voxel_size_m):
            _fill_box(swept, ego_from_global @ pose, half, grid, True)
    for box in records[index].boxes:
        half = np.array(box.size_lwh_m) / 2 + grid.voxel_size_m / 2
        _fill_box(swept, ego_from_global @ box.global_from_box.matrix, half, grid, False)
    return swept


def _along(track: Track, step_m: float) -> Iterator[Pose]:
    """Poses of an object at most ``step_m`` apart."""
    for start, stop, length in zip(
        track.times_us, track.times_us[1:], np.linalg.norm(np.diff(track.centers_m, axis=0), axis=1), strict=False
    ):
        for time_us in np.linspace(start, stop, int(np.ceil(length / step_m)) + 1):
            yield track.pose_at(int(time_us))


def _fill_box(
    voxels: Bool[np.ndarray, "X Y Z"],
    ego_from_box: Pose,
    half_m: Float64[np.ndarray, " 3"],
    grid: VoxelGrid,
    value: bool,
) -> None:
    """Sets the voxels whose centres lie in a box."""
    reach = np.abs(ego_from_box[:3, :3]) @ half_m
    corners = np.stack([ego_from_box[:3, 3] - reach, ego_from_box[:3, 3] + reach])
    low, high = np.clip(grid.voxel_index(corners) + [[0], [1]], 0, grid.shape)
    if (low >= high).any():
        return
    index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    index = index.reshape(-1, 3)
    centers = np.array(grid.minimum_m) + (index + 0.5) * grid.voxel_size_m
    inside = np.all(np.abs(transform_points(invert_rigid(ego_from_box), centers)) <= half_m, axis=1)
    voxels[tuple(index[inside].T)] = value
