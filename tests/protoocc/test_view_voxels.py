"""Voxel pictures: where a voxel appears, what hides what, which paint it gets."""

from __future__ import annotations

import numpy as np

from protoocc.view.cameras import FLOOR_COLOR, PANEL_COLOR, floor_of, perspective_view, top_view
from protoocc.view.paint import (
    CORRECT,
    EGO_BODY,
    EGO_CABIN,
    IGNORED_DARK,
    IGNORED_LIGHT,
    INVENTED,
    MISSED,
    PALE,
    PALETTE,
    WRONG_CLASS,
    add_ego,
    paint_classes,
    paint_errors,
)
from protoocc.view.raycast import draw_voxels
from schemas.classes import OCC3D_CLASSES, OCC3D_COLORS
from schemas.geometry import OCC3D_GRID, VoxelGrid

CAR, BUS, FREE = OCC3D_CLASSES.index("car"), OCC3D_CLASSES.index("bus"), 17


def test_classes_get_class_plus_one_and_free_is_empty() -> None:
    semantics = np.array([0, CAR, 16, FREE], dtype=np.uint8).reshape(4, 1, 1)
    paint = paint_classes(semantics, np.ones((4, 1, 1), dtype=bool))
    assert paint.ravel().tolist() == [1, CAR + 1, 17, 0]
    assert PALETTE[CAR + 1].tolist() == OCC3D_COLORS[CAR].tolist()


def test_outside_the_camera_mask_is_pale() -> None:
    semantics = np.array([CAR, FREE], dtype=np.uint8).reshape(2, 1, 1)
    paint = paint_classes(semantics, np.zeros((2, 1, 1), dtype=bool))
    assert paint.ravel().tolist() == [CAR + 1 + PALE, 0]
    pale, full = PALETTE[CAR + 1 + PALE].astype(int), PALETTE[CAR + 1].astype(int)
    assert pale.max() - pale.min() < (full.max() - full.min()) / 3


def test_ignored_is_chequered_grey_inside_the_mask_only() -> None:
    semantics = np.full((1, 2, 2), 255, dtype=np.uint8)
    paint = paint_classes(semantics, np.ones((1, 2, 2), dtype=bool))
    assert paint[0].tolist() == [[IGNORED_LIGHT, IGNORED_DARK], [IGNORED_DARK, IGNORED_LIGHT]]
    assert not paint_classes(semantics, np.zeros((1, 2, 2), dtype=bool)).any()


def test_errors_by_hand() -> None:
    truth = np.array([CAR, CAR, CAR, FREE, FREE, 255, CAR], dtype=np.uint8).reshape(7, 1, 1)
    guess = np.array([CAR, BUS, FREE, BUS, FREE, CAR, BUS], dtype=np.uint8).reshape(7, 1, 1)
    mask = np.array([1, 1, 1, 1, 1, 1, 0], dtype=bool).reshape(7, 1, 1)
    paint = paint_errors(truth, guess, mask).ravel().tolist()
    assert paint == [CORRECT, WRONG_CLASS, MISSED, INVENTED, 0, 0, 0]


def test_ego_fills_empty_voxels_only() -> None:
    paint = np.zeros(OCC3D_GRID.shape, dtype=np.uint8)
    paint[100, 100, 3] = CAR + 1  # x, y in [0, 0.4) m, z in [0.2, 0.6) m: inside the body
    painted = add_ego(paint, OCC3D_GRID)
    assert painted[100, 100, 3] == CAR + 1
    # body 4.0 x 1.6 x 0.8 m = 10 x 4 x 2 voxels, one taken by the car; cabin 2.4 x 1.6 x 0.6 m from z 1.0 to 1.6
    assert np.count_nonzero(painted == EGO_BODY) == 10 * 4 * 2 - 1
    assert np.count_nonzero(painted == EGO_CABIN) > 0
    assert np.count_nonzero(paint) == 1


def test_single_voxel_from_above_is_forward_up_and_left_left() -> None:
    paint = np.zeros((4, 4, 2), dtype=np.uint8)
    paint[3, 2, 0] = CAR + 1  # farthest forward, second column from the left (y grows to the left)
    picture = top_view(paint, 40)
    # 10 px per voxel: rows (4-1-3)*10 = 0..9, columns (4-1-2)*10 = 10..19; a top face has brightness 1
    assert picture[5, 15].tolist() == OCC3D_COLORS[CAR].tolist()
    coloured = np.argwhere((picture != np.array(FLOOR_COLOR)).any(axis=2))
    assert coloured.min(axis=0).tolist() == [0, 10]
    assert coloured.max(axis=0).tolist() == [9, 19]


def test_every_corner_voxel_fills_its_own_cell() -> None:
    for x, y in ((0, 0), (0, 4), (4, 0), (4, 4)):
        paint = np.zeros((5, 5, 1), dtype=np.uint8)
        paint[x, y, 0] = CAR + 1
        cells = (top_view(paint, 50).reshape(5, 10, 5, 10, 3) != np.array(FLOOR_COLOR)).any(axis=4).all(axis=(1, 3))
        assert np.argwhere(cells).tolist() == [[4 - x, 4 - y]]


def test_higher_voxel_hides_lower_but_pale_does_not_hide_full_colour() -> None:
    paint = np.zeros((1, 1, 3), dtype=np.uint8)
    paint[0, 0, 0], paint[0, 0, 1], paint[0, 0, 2] = BUS + 1, CAR + 1, CAR + 1 + PALE
    assert top_view(paint, 9)[4, 4].tolist() == OCC3D_COLORS[CAR].tolist()
    paint[0, 0, :2] = 0
    assert top_view(paint, 9)[4, 4].tolist() == PALETTE[CAR + 1 + PALE].tolist()


def test_long_grid_is_centred() -> None:
    paint = np.full((4, 2, 1), CAR + 1, dtype=np.uint8)
    picture = top_view(paint, 40)
    assert picture[20, 5].tolist() == list(PANEL_COLOR)
    assert picture[20, 35].tolist() == list(PANEL_COLOR)
    assert picture[5, 15].tolist() == OCC3D_COLORS[CAR].tolist()


def test_grid_larger_than_the_picture_is_scaled_down() -> None:
    paint = np.zeros((60, 60, 1), dtype=np.uint8)
    paint[:, 30:] = CAR + 1  # the left half
    picture = top_view(paint, 50)
    assert picture.shape == (50, 50, 3)
    assert picture[25, 5].tolist() == OCC3D_COLORS[CAR].tolist()
    assert picture[25, 45].tolist() == list(FLOOR_COLOR)


def _ray_along_x(background: np.ndarray, paint: np.ndarray) -> list[int]:
    rays = np.zeros((6, 3))
    rays[0], rays[3] = (-5.0, 0.5, 0.5), (1.0, 0.0, 0.0)
    picture: list[int] = draw_voxels(paint, PALETTE, rays, background)[0, 0].tolist()
    return picture


def test_nearer_voxel_hides_farther() -> None:
    background = np.full((1, 1, 3), 7, dtype=np.uint8)
    paint = np.zeros((6, 1, 1), dtype=np.uint8)
    assert _ray_along_x(background, paint) == [7, 7, 7]
    paint[5] = BUS + 1
    far = _ray_along_x(background, paint)
    paint[2] = CAR + 1
    near = _ray_along_x(background, paint)
    # the face towards -x has brightness 0.84: car (0, 120, 245) -> (0, 100.8, 205.8); bus (240, 210, 0) -> (201.6, ...)
    assert near == [0, 101, 206]
    assert far == [202, 176, 0]


def test_ray_beside_the_grid_shows_the_background() -> None:
    rays = np.zeros((6, 3))
    rays[0], rays[3] = (-5.0, 1.5, 0.5), (1.0, 0.0, 0.0)
    paint = np.full((2, 1, 1), CAR + 1, dtype=np.uint8)
    assert draw_voxels(paint, PALETTE, rays, np.full((1, 1, 3), 9, dtype=np.uint8)).tolist() == [[[9, 9, 9]]]


def test_neighbour_darkens_the_corner_of_a_floor() -> None:
    paint = np.zeros((20, 20, 4), dtype=np.uint8)
    paint[:, :, 0] = CAR + 1
    open_floor = top_view(paint, 200)[100, 100].astype(int)
    paint[10, 10, 1:] = BUS + 1
    picture = top_view(paint, 200).astype(int)
    beside = picture[(20 - 1 - 11) * 10 + 9, (20 - 1 - 10) * 10 + 5]  # in front of the tower, at its foot
    assert beside.sum() < open_floor.sum()


def test_perspective_is_from_behind_and_the_left_is_left() -> None:
    grid = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 4))
    paint = np.zeros(grid.shape, dtype=np.uint8)
    paint[18, 18, 0] = CAR + 1  # ahead, left
    paint[1, 1, 0] = BUS + 1  # behind, right
    picture = perspective_view(paint, grid, floor_cells=0, width_px=120, height_px=90).astype(int)
    blue = np.argwhere(picture[..., 2] - picture[..., 0] > 90).mean(axis=0)
    yellow = np.argwhere(picture[..., 0] - picture[..., 2] > 90).mean(axis=0)
    assert blue[0] < yellow[0] - 20  # what lies ahead is higher in the picture
    assert blue[1] < 60 < yellow[1]


def test_wall_hides_what_is_behind_it_in_perspective() -> None:
    grid = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 16))
    paint = np.zeros(grid.shape, dtype=np.uint8)
    paint[14, 10, 0] = BUS + 1
    is_yellow = [_yellow(paint, grid)]
    paint[12, :, :12] = CAR + 1
    is_yellow.append(_yellow(paint, grid))
    assert is_yellow[0] > 0
    assert is_yellow[1] == 0


def test_floor_lies_below_the_lowest_voxel() -> None:
    paint = np.zeros((2, 2, 5), dtype=np.uint8)
    assert floor_of(paint) == 0
    paint[1, 0, 3] = CAR + 1
    assert floor_of(paint) == 3


def _yellow(paint: np.ndarray, grid: VoxelGrid) -> int:
    picture = perspective_view(paint, grid, floor_cells=0, width_px=120, height_px=90).astype(int)
    return int(np.count_nonzero(picture[..., 0] - picture[..., 2] > 60))
