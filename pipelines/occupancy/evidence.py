"""Places where something was measured: what labels of other people are compared with before they are stored."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float64

from pipelines.occupancy.config import preset_of
from pipelines.occupancy.orientation import Index
from pipelines.points import read_points
from schemas.datasets import DatasetSpec
from schemas.geometry import Pose, VoxelGrid, invert_rigid, transform_points
from schemas.records import BoxRecord, SampleRecord

_STEPS: Final = 5
"""Points of a box along each of its axes."""


def return_places(dataset: DatasetSpec, record: SampleRecord) -> Index | None:
    """Voxels with returns of the keyframe's own sweep, each once, without those of the own vehicle.

    Returns:
        (N, 1, 3) indices in the dataset's grid; None where the record names no sweep or its file is not there.

    Raises:
        DataError: the LiDAR file is broken.
    """
    if record.lidar is None or not (dataset.root / record.lidar.path).is_file():
        return None
    ego_from_lidar = record.lidar.ego_from_lidar.matrix
    points = transform_points(ego_from_lidar, read_points(dataset, record.lidar, record.token))
    corner = np.array(preset_of(dataset.format).ego_box_m)
    points = points[~np.all((points >= corner[:3]) & (points <= corner[3:]), axis=1)]
    return _voxels(dataset.grid, points, ego_from_lidar)[:, None]


def _voxels(grid: VoxelGrid, points_ego: Float64[np.ndarray, "n 3"], ego_from_lidar: Pose) -> np.ndarray:
    """(N, 3) voxels of the grid that hold points, each once, in order."""
    if grid.frame == "lidar":
        points_ego = transform_points(invert_rigid(ego_from_lidar), points_ego)
    index = grid.voxel_index(points_ego)
    index = index[grid.contains(index)]
    flat = np.unique(np.ravel_multi_index(tuple(index.T), grid.shape))
    return np.stack(np.unravel_index(flat, grid.shape), axis=1).astype(np.int64)


def box_places(dataset: DatasetSpec, record: SampleRecord) -> Index:
    """Points spread over each annotated box whose middle lies in the grid: (N, 125, 3) indices.

    In logs with a LiDAR only boxes with returns count.
    """
    grid_from_global = invert_rigid(record.global_from_ego)
    if dataset.grid.frame == "lidar" and record.lidar is not None:
        grid_from_global = invert_rigid(record.lidar.ego_from_lidar.matrix) @ grid_from_global
    seen = [box for box in record.boxes if record.lidar is None or box.num_lidar_pts > 0]
    boxes = [_points(grid_from_global, box) for box in seen]
    points = np.array(boxes, dtype=np.float64).reshape(-1, _STEPS**3, 3)
    index = np.stack([dataset.grid.voxel_index(box) for box in points]) if len(points) else points.astype(np.int64)
    inside = [bool(dataset.grid.contains(box[len(box) // 2 : len(box) // 2 + 1])[0]) for box in index]
    return np.clip(index[np.array(inside, dtype=bool)], 0, np.array(dataset.grid.shape) - 1)


def _points(grid_from_global: Pose, box: BoxRecord) -> Float64[np.ndarray, "k 3"]:
    steps = (np.arange(_STEPS) + 0.5) / _STEPS - 0.5
    unit = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return transform_points(grid_from_global @ box.global_from_box.matrix, unit * np.array(box.size_lwh_m))
