"""Voxel index, poses and projection: numbers worked out by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from schemas.geometry import OCC3D_GRID, VoxelGrid, invert_rigid, project_points, rigid_transform, transform_points


def test_voxel_index_at_borders():
    points = np.array([[-40.0, -40.0, -1.0], [-39.6, 0.0, 5.39], [39.99, 39.99, 0.0], [40.0, 0.0, 0.0], [-40.01, 0, 0]])
    index = OCC3D_GRID.voxel_index(points)
    assert index[0].tolist() == [0, 0, 0]
    assert index[1, 1:].tolist() == [100, 15]  # (0+40)/0.4 = 100; (5.39+1)/0.4 = 15.97
    assert index[2].tolist() == [199, 199, 2]  # (0+1)/0.4 = 2.5
    assert OCC3D_GRID.contains(index).tolist() == [True, True, True, False, False]


def test_grid_with_positive_minimum():
    grid = VoxelGrid(minimum_m=(10.0, 20.0, 30.0), voxel_size_m=2.0, shape=(2, 3, 4))
    assert grid.maximum_m == (14.0, 26.0, 38.0)
    assert grid.voxel_index(np.array([[13.0, 21.0, 37.9]])).tolist() == [[1, 0, 3]]
    assert grid.centers()[1, 0, 3].tolist() == [13.0, 21.0, 37.0]


def test_centers_fall_into_their_own_voxel():
    centers = OCC3D_GRID.centers()
    assert centers.shape == (200, 200, 16, 3)
    index = OCC3D_GRID.voxel_index(centers.reshape(-1, 3)).reshape(200, 200, 16, 3)
    assert (index == np.stack(np.indices((200, 200, 16)), axis=-1)).all()


def test_grid_refuses_empty_axis():
    with pytest.raises(ValidationError, match="at least one voxel"):
        VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(1, 0, 1))


def test_quarter_turn_about_z():
    half = np.sqrt(0.5)
    pose = rigid_transform((half, 0.0, 0.0, half), (1.0, 2.0, 3.0))
    # x forward becomes y: (1,0,0) -> (0,1,0) + (1,2,3)
    assert np.allclose(transform_points(pose, np.array([[1.0, 0.0, 0.0]])), [[1.0, 3.0, 3.0]])
    assert np.allclose(invert_rigid(pose) @ pose, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (float("nan"), 0.0, 0.0, 1.0)])
def test_no_quaternion(quaternion):
    with pytest.raises(ValueError, match="quaternion"):
        rigid_transform(quaternion, (0.0, 0.0, 0.0))


def test_projection_by_hand():
    intrinsics = np.array([[100.0, 0.0, 50.0], [0.0, 200.0, 40.0], [0.0, 0.0, 1.0]])
    uv, depth = project_points(intrinsics, np.array([[1.0, -0.5, 4.0], [0.0, 0.0, -2.0]]))
    assert uv[0].tolist() == [75.0, 15.0]  # 100*1/4+50, 200*-0.5/4+40
    assert depth.tolist() == [4.0, -2.0]
