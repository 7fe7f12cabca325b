"""Projection of voxel queries: hand numbers, borders, and agreement with `schemas.geometry`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protoocc.model.projection import find_hits, is_hit, project_points, query_centers
from schemas.geometry import OCC3D_GRID, VoxelGrid, rigid_transform, transform_points
from schemas.geometry import project_points as project_points_numpy


def test_query_centers_are_voxel_centers_at_full_resolution() -> None:
    """With as many queries as voxels, both definitions of a centre coincide."""
    grid = VoxelGrid(minimum_m=(-2.0, 1.0, -1.0), voxel_size_m=0.5, shape=(4, 2, 6))
    np.testing.assert_allclose(query_centers(grid, grid.shape).numpy(), grid.centers(), atol=1e-6)


def test_query_centers_of_small() -> None:
    """80 m in 50 queries: 1.6 m each, the first centre at -40 + 0.8; 6.4 m in 16: -1 + 0.2."""
    centers = query_centers(OCC3D_GRID, (50, 50, 16))
    torch.testing.assert_close(centers[0, 0, 0], torch.tensor([-39.2, -39.2, -0.8]))
    torch.testing.assert_close(centers[-1, 0, -1], torch.tensor([39.2, -39.2, 5.2]))


def test_project_points_by_hand() -> None:
    """Camera 1 m above the ego origin, looking along x: u = 100 * (-y / x) + 50, v = 100 * ((1 - z) / x) + 30."""
    camera_from_ego = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[100.0, 0, 50], [0, 100, 30], [0, 0, 1]])
    points = torch.tensor([[10.0, 2.0, 0.0], [5.0, -1.0, 1.5]])
    uv_px, depth_m = project_points(points, camera_from_ego, intrinsics)
    torch.testing.assert_close(uv_px, torch.tensor([[30.0, 40.0], [70.0, 20.0]]))
    torch.testing.assert_close(depth_m, torch.tensor([10.0, 5.0]))


def test_projection_equals_numpy_twin() -> None:
    """Random poses and points, float64: equal to 1e-9."""
    random = np.random.default_rng(0)
    points = random.normal(size=(200, 3)) * 20
    poses = np.stack([rigid_transform(list(random.normal(size=4)), list(random.normal(size=3))) for _ in range(3)])
    intrinsics = np.array([[300.0, 0, 200], [0, 310, 100], [0, 0, 1]])
    cameras = np.broadcast_to(intrinsics, (3, 3, 3)).copy()
    uv_px, depth_m = project_points(torch.tensor(points), torch.tensor(poses), torch.tensor(cameras))
    for camera, pose in enumerate(poses):
        expected_uv, expected_depth = project_points_numpy(intrinsics, transform_points(pose, points))
        np.testing.assert_allclose(uv_px[camera].numpy(), expected_uv, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(depth_m[camera].numpy(), expected_depth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("uv", "depth", "expected"),
    [
        ((0.0, 0.0), 1.0, True),
        ((-0.001, 0.0), 1.0, False),
        ((19.999, 9.999), 1.0, True),
        ((20.0, 5.0), 1.0, False),
        ((5.0, 10.0), 1.0, False),
        ((5.0, 5.0), 0.1, False),
        ((5.0, 5.0), 0.101, True),
        ((5.0, 5.0), -3.0, False),
    ],
)
def test_hit_borders(uv: tuple[float, float], depth: float, expected: bool) -> None:
    """Pixels [0, 20) x [0, 10) and more than 0.1 m of depth."""
    assert bool(is_hit(torch.tensor([uv]), torch.tensor([depth]), (10, 20))[0]) is expected


def test_find_hits_lists_rows_per_camera() -> None:
    """Two samples, one camera each: forward sees the first point, backward the second."""
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    backward = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[10.0, 0, 10], [0, 10, 5], [0, 0, 1]]).expand(2, 1, 3, 3)
    points = torch.tensor([[[4.0, 0.0, 0.0]], [[-4.0, 2.0, 0.0]]])
    hits = find_hits(
        points, torch.stack([forward, backward])[:, None], intrinsics, image_size=(10, 20), padded_size=(32, 40)
    )
    assert hits.counts == [1, 1]
    assert hits.row.tolist() == [0, 3]
    assert hits.query.tolist() == [0, 1]
    # Sample 0: u 10 of 40, v 5 of 32. Sample 1: camera x = y = 2, so u = 10 * 2 / 4 + 10 = 15.
    torch.testing.assert_close(hits.reference, torch.tensor([[[10 / 40, 5 / 32]], [[15 / 40, 5 / 32]]]))
    torch.testing.assert_close(hits.depth_m, torch.tensor([[4.0], [4.0]]))
