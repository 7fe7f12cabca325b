"""Where rays start: near places of the scene, at most eight of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protoocc.data import ShardDataset, open_shards
from protoocc.ray_places import RayPlaces, lidar_places
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, invert_rigid

EGO_FROM_LIDAR = np.array([[0.0, -1, 0, 0.5], [1, 0, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1]])
"""Turned by a quarter to the left, as on many vehicles."""


def drive(count: int, step_m: float) -> list[np.ndarray]:
    """global_from_ego along the global y axis, with the vehicle's x that way."""
    turned = np.array([[0.0, -1, 0, 100], [1, 0, 0, 50], [0, 0, 1, 3], [0, 0, 0, 1]])
    poses = [turned.copy() for _ in range(count)]
    for number, pose in enumerate(poses):
        pose[1, 3] += step_m * number
    return poses


def test_places_are_those_of_the_scene_in_the_frame_of_the_keyframe() -> None:
    lidars = [pose @ EGO_FROM_LIDAR for pose in drive(3, 2.0)]
    # Seen from the second keyframe: one step back, here, one step on, along the vehicle's x.
    assert np.allclose(
        lidar_places(lidars, 1, EGO_FROM_LIDAR, OCC3D_GRID), [(-1.5, 0, 1.8), (0.5, 0, 1.8), (2.5, 0, 1.8)]
    )


def test_far_places_are_left_out_and_eight_are_chosen_evenly() -> None:
    lidars = [pose @ EGO_FROM_LIDAR for pose in drive(30, 4.0)]
    ahead_m = [0.5 + 4.0 * number - 60 for number in range(30)]  # seen from keyframe 15
    near = [along for along in ahead_m if abs(along) < 39]  # -35.5 .. 36.5, 19 of them
    assert len(near) == 19
    chosen = [near[number] for number in (0, 3, 5, 8, 10, 13, 15, 18)]  # 18 / 7 = 2.57 apart, rounded
    assert np.allclose(lidar_places(lidars, 15, EGO_FROM_LIDAR, OCC3D_GRID)[:, 0], chosen)


def test_own_place_is_the_mounting_exactly() -> None:
    lidars = [pose @ EGO_FROM_LIDAR for pose in drive(2, 7.3)]
    assert lidar_places(lidars, 1, EGO_FROM_LIDAR, OCC3D_GRID)[1].tolist() == EGO_FROM_LIDAR[:3, 3].tolist()


def test_limit_is_strict() -> None:
    mounting = np.eye(4)
    lidars = [np.eye(4), np.eye(4), np.eye(4)]
    lidars[1][1, 3], lidars[2][0, 3] = 39.0, -38.99
    assert lidar_places(lidars, 0, mounting, OCC3D_GRID)[:, :2] == pytest.approx(np.array([[0, 0], [-38.99, 0]]))


def test_grid_that_begins_at_the_vehicle_has_no_rays_from_behind() -> None:
    """Every third scan of a drive forward: of 7 places 3 lie behind, the own one stands on the border of the grid."""
    lidars = [np.eye(4) for _ in range(7)]
    for number, pose in enumerate(lidars):
        pose[0, 3] = 5.0 * number
    places = lidar_places(lidars, 3, np.eye(4), SEMANTICKITTI_GRID)
    assert places[:, 0].tolist() == [0, 5, 10, 15]
    assert lidar_places(lidars, 3, np.eye(4), OCC3D_GRID)[:, 0].tolist() == [-15, -10, -5, 0, 5, 10, 15]


def test_places_of_shards_stay_within_their_scene(shards: Path) -> None:
    """Samples 0 to 2 are one scene, 3 and 4 another; the vehicle goes on by 2 m, the LiDAR stands 0.5 m ahead."""
    dataset = ShardDataset(open_shards(shards, "train"))
    places = RayPlaces(dataset)
    assert places.missing is None
    assert places.of(0)[:, 0].tolist() == [0.5, 2.5, 4.5]
    assert places.of(4)[:, 0].tolist() == [-1.5, 0.5]
    for index in range(len(dataset)):
        global_from_ego, ego_from_lidar = dataset.poses(index)
        assert ego_from_lidar is not None
        own = invert_rigid(global_from_ego) @ global_from_ego @ ego_from_lidar
        assert any(np.allclose(place, own[:3, 3]) for place in places.of(index))


def test_shards_without_the_lidar_name_a_sample(shards_without_lidar: Path) -> None:
    dataset = ShardDataset(open_shards(shards_without_lidar, "val"))
    assert RayPlaces(dataset).missing == "scene-val-00000-0000"
