"""Labels against the measurements: first hits by hand, boxes by hand, a generated world, real keyframes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy.check import Check, check_keyframe, check_labels
from pipelines.occupancy.first_hit import CameraRays, boxes_along, camera_rays, labels_along
from pipelines.occupancy.stored import read_row
from pipelines.scheduler import Scheduler
from schemas.datasets import DatasetSpec
from schemas.geometry import VoxelGrid
from schemas.records import BoxRecord, RigidPose

CAR = 4


def test_labels_along_rays_are_in_metres() -> None:
    grid = VoxelGrid(minimum_m=(-1.0, -1.0, -1.0), voxel_size_m=0.5, shape=(20, 4, 4))
    semantics = np.full(grid.shape, 17, np.uint8)
    semantics[8, 2, 2] = CAR  # x from 3.0 to 3.5, y and z from 0 to 0.5
    labels, distances_m = labels_along(
        semantics, grid, np.array([0.25, 0.25, 0.25]), np.array([[1.0, 0, 0], [0, 1.0, 0]]), free=17
    )
    assert labels.tolist() == [CAR, 17]
    assert distances_m.tolist() == [pytest.approx(2.75), math.inf]


def box(x: float, y: float, *, turned: bool = False) -> BoxRecord:
    half = math.sqrt(0.5)
    rotation = (half, 0.0, 0.0, half) if turned else (1.0, 0.0, 0.0, 0.0)
    return BoxRecord(
        token=f"box-{x}", instance="car", category="vehicle.car", label=CAR, size_lwh_m=(4.0, 2.0, 2.0),
        num_lidar_pts=1, global_from_box=RigidPose(rotation_wxyz=rotation, translation_m=(x, y, 0.0)),
    )  # fmt: skip


def test_nearest_box_of_a_ray() -> None:
    ego_from_camera = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    intrinsics = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    directions = np.array([[1.0, 0, 0], [1, 0.2, 0], [1, 0, 1]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # u = 50 - 100 y / x, v = 50 - 100 z / x
    pixels = np.array([[50.0, 50], [30, 50], [50, -50]])
    view = CameraRays(np.zeros(3), directions, pixels, (1, 3), ego_from_camera, intrinsics)
    # far box first in the list: 18..22 m; the near one is turned, so 1 m deep on either side of x = 10 and 4 m wide
    owner, span_m = boxes_along(view, [box(20.0, 0.0), box(10.0, 0.0, turned=True)], np.eye(4))
    assert owner.tolist() == [1, 1, -1]
    assert span_m[0].tolist() == pytest.approx([9.0, 11.0])
    # the second ray is at y = 1.8 at x = 9 and leaves through the side y = 2 at x = 10
    assert span_m[1].tolist() == pytest.approx([9 * math.sqrt(1.04), 10 * math.sqrt(1.04)])


def test_exact_labels_pass(world_dataset: DatasetSpec, stored: Path) -> None:
    check = check_labels(world_dataset, stored, scheduler=Scheduler(kind="sync"))
    assert check.keyframes == 4 and sorted(check.per_row) == [0, 1, 2, 3]
    assert check.figures["lidar_hit_share"] is not None and check.figures["lidar_hit_share"] > 0.995
    # boxes hold air too, and things stand before them: exact labels reach this much on this world
    assert check.figures["box_pixel_share"] is not None and check.figures["box_pixel_share"] > 0.6
    assert check.figures["depth_share"] is not None and check.figures["depth_share"] > 0.7
    precisions = [check.figures[f"{name}_precision"] for name in ("lidar_hit", "depth", "box_pixel")]
    assert all(value is not None and value > 0.6 for value in precisions)


def test_wrong_labels_fail(world_dataset: DatasetSpec, stored: Path) -> None:
    record, labels = read_row(stored, 0)
    right = check_keyframe(world_dataset, record, labels["semantics"], 0)
    nothing = check_keyframe(world_dataset, record, np.full_like(labels["semantics"], 17), 0)
    assert nothing.returns == right.returns and nothing.returns_occupied == 0 and nothing.views_agree == 0
    assert all(counts.tolist()[:3] == [0, 0, 0] for counts in nothing.pixels.values())  # all rays go through
    wrong = np.where(labels["semantics"] < 11, np.uint8(0), labels["semantics"])
    swapped = check_keyframe(world_dataset, record, wrong, 0)
    for label, counts in right.pixels.items():
        # class 0 is nobody's box here unless the box itself is of class 0: right ones become other ones
        moved = 0 if label == 0 else counts[0]
        assert swapped.pixels[label][0] >= counts[0] - moved
        assert label == 0 or swapped.pixels[label][0] == 0


def test_occupying_everything_has_no_precision(world_dataset: DatasetSpec, stored: Path) -> None:
    """Files with free = 16 that were read as Occ3D's are vegetation throughout: all returns hit, nothing is right."""
    record, labels = read_row(stored, 0)
    right = check_keyframe(world_dataset, record, labels["semantics"], 0)
    full = check_keyframe(world_dataset, record, np.where(labels["semantics"] == 17, np.uint8(16), np.uint8(4)), 0)
    assert full.figures["lidar_hit_share"] == 1.0
    assert full.figures["lidar_hit_precision"] < 0.25 < right.figures["lidar_hit_precision"]  # type: ignore[operator]
    assert full.figures["depth_precision"] < 0.05 < right.figures["depth_precision"]  # type: ignore[operator]
    assert full.views_met == full.views


def test_checks_add_up() -> None:
    first = Check(1, 10, 9, 4, 2, {CAR: np.array([3, 1, 0, 0])}, {0: 0.75}, 8, 4, 2, {CAR: np.array([4, 1])})
    second = Check(2, 10, 10, 0, 0, {CAR: np.array([1, 0, 0, 0]), 7: np.array([0, 0, 5, 0])}, {1: 0.2, 2: float("nan")})
    total = first + second
    assert total.figures == {
        "lidar_hit_share": 0.95, "lidar_hit_precision": 0.5, "depth_share": 0.5, "depth_precision": 1.0,
        "box_pixel_share": 0.4, "box_pixel_precision": 0.25,
    }  # fmt: skip
    assert total.pixels[CAR].tolist() == [4, 1, 0, 0]
    assert total.typical_row == 0
    assert Check(per_row={5: float("nan")}).typical_row == 5
    assert set(Check().figures.values()) == {None}


def test_view_tiles_the_image(prepared: Path) -> None:
    from schemas.records import read_index, read_records

    record = read_records(prepared / "records", read_index(prepared / "records"))[0]
    view = camera_rays(record, "CAM_FRONT", 8.0)
    assert view.shape == (28, 50)  # 225 // 8, 400 // 8
    assert view.pixels[0].tolist() == [4.0, 4.0] and view.pixels[-1].tolist() == [396.0, 220.0]
    forward = view.directions[np.abs(view.pixels - [200, 112]).sum(axis=1).argmin()]
    assert forward[0] > 0.98  # the front camera looks along x
