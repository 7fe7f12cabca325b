"""Point projection and the choice of hit queries against loops in float64, and the borders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from protoocc.model.projection import HitQueries, find_hits, project_points, query_anchors
from schemas.geometry import OCC3D_GRID, VoxelGrid
from tests.protoocc.reference import geometry
from tests.protoocc.reference.arithmetic import assert_agrees
from tests.protoocc.reference.rigs import look_along, random_rigs

IMAGE, PADDED = (40, 70), (64, 96)


def random_points(queries: int, anchors: int) -> Tensor:
    """Within 12 m around the vehicle and from -1 to 4 m above the ground, ego frame."""
    generator = torch.Generator().manual_seed(5)
    shares = torch.rand(queries, anchors, 3, generator=generator, dtype=torch.float64)
    return shares * torch.tensor([24.0, 24.0, 5.0]) - torch.tensor([12.0, 12.0, 1.0])


def choose(anchors_ego: Tensor, poses: Tensor, intrinsics: Tensor) -> HitQueries:
    return find_hits(anchors_ego, poses, intrinsics, image_size=IMAGE, padded_size=PADDED)


def literal_hits(anchors_ego: Tensor, poses: Tensor, intrinsics: Tensor) -> list[geometry.Hit]:
    cameras = poses.flatten(0, 1).tolist(), intrinsics.flatten(0, 1).tolist()
    return geometry.hits(anchors_ego.tolist(), *cameras, IMAGE, PADDED)


@pytest.mark.parametrize(("shape", "heights"), [((4, 4, 2), 1), ((3, 5, 1), 8), ((2, 2, 4), 3)])
def test_anchors(shape: tuple[int, int, int], heights: int) -> None:
    """Centres of equal cells of the grid; they are stored as float32, so 40 m are exact to 2e-6 m."""
    for grid in (OCC3D_GRID, VoxelGrid(minimum_m=(-3.0, 1.0, 0.5), voxel_size_m=0.25, shape=(6, 10, 12))):
        h, w, z = shape
        expected = geometry.cell_centers(list(grid.minimum_m), list(grid.maximum_m), (h, w, z * heights))
        anchors = query_anchors(grid, shape, heights)
        torch.testing.assert_close(anchors.flatten(0, 3), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_projection() -> None:
    """Random rigs with skewed, unequal focal lengths: every point in front of a camera."""
    poses, intrinsics = random_rigs(samples=2, cameras=3)
    points = random_points(40, 1)[:, 0]
    uv_px, depth_m = project_points(points, poses, intrinsics)
    ahead = 0
    for sample in range(2):
        for camera in range(3):
            pose, intrinsic = poses[sample, camera].tolist(), intrinsics[sample, camera].tolist()
            for number, point in enumerate(points.tolist()):
                u, v, depth = geometry.project(point, pose, intrinsic)
                assert_agrees(depth_m[sample, camera, number], depth)
                if depth > 0:
                    assert_agrees(uv_px[sample, camera, number], [u, v])
                    ahead += 1
    assert 60 < ahead < 180


def test_projection_gradient() -> None:
    """To points, poses and intrinsics, for points in front of the camera."""
    pose, intrinsics = look_along(0.3), torch.tensor([[40.0, 0.5, 35], [0, 42, 20], [0, 0, 1]], dtype=torch.float64)
    ahead = torch.tensor([[5.0, 1.0, 1.0], [9.0, -2.0, 0.0]], dtype=torch.float64)
    assert gradcheck(project_points, (ahead.requires_grad_(), pose.requires_grad_(), intrinsics.requires_grad_()))


@pytest.mark.parametrize("anchors", [1, 4])
def test_hit_queries(anchors: int) -> None:
    """Two samples with different rigs of three cameras: order, rows, places, depths and counts of all hits."""
    poses, intrinsics = random_rigs(samples=2, cameras=3)
    points = random_points(50, anchors)
    expected, actual = literal_hits(points, poses, intrinsics), choose(points, poses, intrinsics)
    assert len(expected) > 50
    assert actual.query.tolist() == [hit.query for hit in expected]
    assert actual.row.tolist() == [hit.camera // 3 * 50 + hit.query for hit in expected]
    assert actual.counts == [sum(hit.camera == camera for hit in expected) for camera in range(6)]
    assert_agrees(actual.depth_m, [hit.depths_m for hit in expected])
    outside = torch.tensor([[place is None for place in hit.places] for hit in expected])
    assert bool(outside.any()) is (anchors > 1)
    assert_agrees(actual.reference[~outside], [place for hit in expected for place in hit.places if place is not None])
    assert (actual.reference[outside].abs() > 2.0).all()


def test_all_queries_behind_the_camera() -> None:
    """A camera that looks away from every query has no hit, whatever its mirrored projection says."""
    points = random_points(50, 1)
    points[..., 0] = points[..., 0].abs() + 1.0
    intrinsics = torch.tensor([[40.0, 0, 35], [0, 40, 20], [0, 0, 1]], dtype=torch.float64).expand(1, 2, 3, 3)
    poses = torch.stack([look_along(0.0), look_along(torch.pi)])[None]
    assert choose(points, poses, intrinsics).counts == [len(literal_hits(points, poses[:, :1], intrinsics[:, :1])), 0]
    assert choose(points, poses[:, 1:], intrinsics[:, 1:]).counts == [0]
    assert choose(points, poses[:, :1], intrinsics[:, :1]).counts[0] > 5


def test_point_in_the_camera_plane() -> None:
    """Depth 0 divides by zero and must be no hit; so are 0.1 m, but not a little more."""
    identity = torch.eye(4, dtype=torch.float64).view(1, 1, 4, 4)
    intrinsics = torch.tensor([[40.0, 0, 35], [0, 40, 20], [0, 0, 1]], dtype=torch.float64).view(1, 1, 3, 3)
    points = torch.tensor([[0.0, 0.0, depth] for depth in (0.0, 0.1, 0.1001, -1.0)], dtype=torch.float64)[:, None]
    assert choose(points, identity, intrinsics).query.tolist() == [2]
    assert [hit.query for hit in literal_hits(points, identity, intrinsics)] == [2]
