"""Depth along the LiDAR's rays: errors by hand, the floor, grids in the LiDAR's frame."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy.check import Check, check_keyframe, check_labels, matter_of
from pipelines.occupancy.depth import DepthErrors, depth_errors, floor_errors
from pipelines.occupancy.grid_frame import in_grid_frame
from pipelines.occupancy.stored import read_row
from pipelines.scheduler import Scheduler
from schemas.datasets import DatasetSpec
from schemas.geometry import VoxelGrid
from schemas.records import SampleRecord

GRID = VoxelGrid(minimum_m=(-1.0, -1.0, -1.0), voxel_size_m=0.5, shape=(20, 4, 4))
LIDAR = np.array([-0.75, 0.25, 0.25])
RETURNS = np.array([
    [3.25, 0.25, 0.25],  # 4 m away, in the voxel, whose face is 3.75 m away
    [6.25, 0.25, 0.25],  # 7 m away, behind it
    [3.25, -0.5, 0.25],  # sqrt(4^2 + 0.75^2) = 4.0697 m away; meets none and leaves through y = -1 at 5 / 3 of that
    [0.25, 0.25, 0.25],  # nearer than 2.5 m
    [12.0, 0.25, 0.25],  # beyond the grid
])  # fmt: skip


def occupied_voxel() -> np.ndarray:
    occupied = np.zeros(GRID.shape, dtype=bool)
    occupied[8, 2, 2] = True  # x from 3.0 to 3.5, y and z from 0 to 0.5
    return occupied


def test_errors_by_hand() -> None:
    errors = depth_errors(occupied_voxel(), GRID, LIDAR, RETURNS)
    beside = math.hypot(4.0, 0.75)
    late = beside * 2 / 3
    assert errors.returns == 3
    assert (errors.within, errors.within_2, errors.within_3) == (1, 1, 3)  # ratios 1.067, 1.867, 1.667
    assert (errors.early, errors.late) == (1, 1)
    assert errors.figures == pytest.approx({
        "mae_m": (0.25 + 3.25 + late) / 3,
        "rmse_m": math.sqrt((0.25**2 + 3.25**2 + late**2) / 3),
        "rmse_log": math.sqrt((math.log(4 / 3.75) ** 2 + math.log(7 / 3.75) ** 2 + math.log(5 / 3) ** 2) / 3),
        "relative": (0.25 / 4 + 3.25 / 7 + 2 / 3) / 3,
        "within_1.25": 1 / 3, "within_1.25^2": 1 / 3, "within_1.25^3": 1.0, "early": 1 / 3, "late": 1 / 3,
    })  # fmt: skip


def test_sums_add_up_and_nothing_has_no_figures() -> None:
    whole = depth_errors(occupied_voxel(), GRID, LIDAR, RETURNS)
    parts = [depth_errors(occupied_voxel(), GRID, LIDAR, part) for part in (RETURNS[:2], RETURNS[2:])]
    assert (parts[0] + parts[1]).figures == pytest.approx(whole.figures)
    assert set(DepthErrors().figures.values()) == {None}


def test_a_lidar_outside_the_grid_counts_nothing() -> None:
    assert depth_errors(occupied_voxel(), GRID, np.array([-3.0, 0.25, 0.25]), RETURNS).returns == 0


def test_the_floor_is_what_the_own_returns_give() -> None:
    occupied = np.zeros(GRID.shape, dtype=bool)
    occupied[[8, 14, 8, 2], [2, 2, 1, 2], [2, 2, 2, 2]] = True  # the voxels of the four returns in the grid
    assert floor_errors(GRID, LIDAR, RETURNS) == depth_errors(occupied, GRID, LIDAR, RETURNS)
    assert floor_errors(GRID, LIDAR, RETURNS).late == 0


def test_exact_labels_lie_between_the_floor_and_twice_it(world_dataset: DatasetSpec, stored: Path) -> None:
    check = check_labels(world_dataset, stored, scheduler=Scheduler(kind="sync"))
    labels, floor = check.depth.figures, check.depth_floor.figures
    assert check.depth.returns == check.depth_floor.returns > 10_000
    assert floor["mae_m"] < labels["mae_m"] < 2 * floor["mae_m"]  # type: ignore[operator]
    assert labels["late"] < 0.01 and labels["early"] > floor["early"]  # type: ignore[operator]


def check_own_returns(dataset: DatasetSpec, record: SampleRecord) -> Check:
    """Labels that hold the keyframe's returns and nothing else."""
    points, grid = matter_of(dataset, record), dataset.grid
    index = grid.voxel_index(points)
    semantics = np.full(grid.shape, dataset.classes.free, np.uint8)
    semantics[tuple(index[grid.contains(index)].T)] = 4
    return check_keyframe(dataset, record, semantics, 0)


def test_a_grid_of_the_lidar_gives_the_same_measurements(world_dataset: DatasetSpec, stored: Path) -> None:
    """Turned and shifted into the LiDAR's frame: cameras and boxes are where they were."""
    record, _ = read_row(stored, 0)
    height_m = record.keyframe_sweep.ego_from_lidar.translation_m[2]  # layers as in the ego frame, or rays graze others
    grid = world_dataset.grid.model_copy(update={"frame": "lidar", "minimum_m": (-40.0, -40.0, -1.0 - height_m)})
    here = check_own_returns(world_dataset, record)
    there = check_own_returns(world_dataset.model_copy(update={"grid": grid}), record)
    assert there.returns == there.returns_occupied == pytest.approx(here.returns, rel=0.05)
    assert there.depth == there.depth_floor
    assert there.views_agree / there.views == pytest.approx(here.views_agree / here.views, abs=0.05)
    boxes = [sum(int(counts[:2].sum()) for counts in check.pixels.values()) for check in (here, there)]
    assert boxes[1] == pytest.approx(boxes[0], rel=0.25)  # rays that meet a voxel in the box
    copy, channel = in_grid_frame(record, grid), world_dataset.cameras[0]
    ego_from_lidar = record.keyframe_sweep.ego_from_lidar.matrix
    assert copy.camera_from_ego(channel) == pytest.approx(record.camera_from_ego(channel) @ ego_from_lidar, abs=1e-6)
    assert in_grid_frame(record, world_dataset.grid) is record
