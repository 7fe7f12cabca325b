"""Voxel pictures: where a voxel appears, what hides what, which paint it gets."""

from __future__ import annotations

import numpy as np
import pytest

from protoocc.view.cameras import FLOOR_COLOR, PANEL_COLOR, floor_of, perspective_view, top_view
from protoocc.view.outline import OUTLINE_COLOR
from protoocc.view.paint import (
    CORRECT,
    EGO_BODY,
    EGO_CABIN,
    FIRST_CLASS,
    IGNORED_DARK,
    IGNORED_LIGHT,
    INVENTED,
    MISSED,
    PALE,
    WRONG_CLASS,
    add_ego,
    make_palette,
    paint_classes,
    paint_errors,
)
from protoocc.view.raycast import draw_voxels
from schemas.classes import OCC3D, ClassTable
from schemas.errors import DataError
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, VoxelGrid

CAR, BUS, FREE = OCC3D.index("car"), OCC3D.index("bus"), OCC3D.free
PALETTE = make_palette(OCC3D)
CAR_PAINT, BUS_PAINT = CAR + FIRST_CLASS, BUS + FIRST_CLASS


def test_classes_have_paints_of_their_own_and_free_is_empty() -> None:
    semantics = np.array([0, CAR, 16, FREE], dtype=np.uint8).reshape(4, 1, 1)
    paint = paint_classes(semantics, np.ones((4, 1, 1), dtype=bool), OCC3D)
    assert paint.ravel().tolist() == [FIRST_CLASS, CAR_PAINT, FIRST_CLASS + 16, 0]
    assert PALETTE[CAR_PAINT].tolist() == OCC3D.palette[CAR].tolist()


def test_outside_the_camera_mask_is_pale() -> None:
    semantics = np.array([CAR, FREE], dtype=np.uint8).reshape(2, 1, 1)
    paint = paint_classes(semantics, np.zeros((2, 1, 1), dtype=bool), OCC3D)
    assert paint.ravel().tolist() == [CAR_PAINT + PALE, 0]
    pale, full = PALETTE[CAR_PAINT + PALE].astype(int), PALETTE[CAR_PAINT].astype(int)
    assert pale.max() - pale.min() < (full.max() - full.min()) / 3


def test_ignored_is_chequered_grey_inside_the_mask_only() -> None:
    semantics = np.full((1, 2, 2), 255, dtype=np.uint8)
    paint = paint_classes(semantics, np.ones((1, 2, 2), dtype=bool), OCC3D)
    assert paint[0].tolist() == [[IGNORED_LIGHT, IGNORED_DARK], [IGNORED_DARK, IGNORED_LIGHT]]
    assert not paint_classes(semantics, np.zeros((1, 2, 2), dtype=bool), OCC3D).any()


def test_errors_by_hand() -> None:
    truth = np.array([CAR, CAR, CAR, FREE, FREE, 255, CAR], dtype=np.uint8).reshape(7, 1, 1)
    guess = np.array([CAR, BUS, FREE, BUS, FREE, CAR, BUS], dtype=np.uint8).reshape(7, 1, 1)
    mask = np.array([1, 1, 1, 1, 1, 1, 0], dtype=bool).reshape(7, 1, 1)
    paint = paint_errors(truth, guess, mask, OCC3D).ravel().tolist()
    assert paint == [CORRECT, WRONG_CLASS, MISSED, INVENTED, 0, 0, 0]


def test_ego_fills_empty_voxels_only() -> None:
    paint = np.zeros(OCC3D_GRID.shape, dtype=np.uint16)
    paint[100, 100, 3] = CAR_PAINT  # x, y in [0, 0.4) m, z in [0.2, 0.6) m: inside the body
    painted = add_ego(paint, OCC3D_GRID)
    assert painted[100, 100, 3] == CAR_PAINT
    # body 4.0 x 1.6 x 0.8 m = 10 x 4 x 2 voxels, one taken by the car; cabin 2.4 x 1.6 x 0.6 m from z 1.0 to 1.6
    assert np.count_nonzero(painted == EGO_BODY) == 10 * 4 * 2 - 1
    assert np.count_nonzero(painted == EGO_CABIN) > 0
    assert np.count_nonzero(paint) == 1


def test_ego_stands_on_the_road_at_the_border_of_the_grid() -> None:
    """SemanticKITTI's ego frame is the LiDAR, 1.73 m above the road, and the grid begins there."""
    painted = add_ego(np.zeros(SEMANTICKITTI_GRID.shape, np.uint16), SEMANTICKITTI_GRID)
    places = np.argwhere(painted == EGO_BODY)
    # x 0 to 3.2, y -0.8 to 0.8, z -1.53 to -0.73: of the layers from -2.0 those from -1.6 up to -0.8.
    assert places.min(axis=0).tolist() == [0, 124, 2] and places.max(axis=0).tolist() == [15, 131, 5]
    assert np.argwhere(painted == EGO_CABIN).max(axis=0)[2] == 8  # up to -0.13: the last whole layer ends at -0.2


def test_single_voxel_from_above_is_forward_up_and_left_left() -> None:
    paint = np.zeros((4, 4, 2), dtype=np.uint16)
    paint[3, 2, 0] = CAR_PAINT  # farthest forward, second column from the left (y grows to the left)
    picture = top_view(paint, PALETTE, 40)
    # 10 px per voxel: rows (4-1-3)*10 = 0..9, columns (4-1-2)*10 = 10..19; a top face has brightness 1
    assert picture[5, 15].tolist() == OCC3D.palette[CAR].tolist()
    coloured = np.argwhere((picture != np.array(FLOOR_COLOR)).any(axis=2))
    assert coloured.min(axis=0).tolist() == [0, 10]
    assert coloured.max(axis=0).tolist() == [9, 19]


def test_every_corner_voxel_fills_its_own_cell() -> None:
    for x, y in ((0, 0), (0, 4), (4, 0), (4, 4)):
        paint = np.zeros((5, 5, 1), dtype=np.uint16)
        paint[x, y, 0] = CAR_PAINT
        cells = (
            (top_view(paint, PALETTE, 50).reshape(5, 10, 5, 10, 3) != np.array(FLOOR_COLOR))
            .any(axis=4)
            .all(axis=(1, 3))
        )
        assert np.argwhere(cells).tolist() == [[4 - x, 4 - y]]


def test_higher_voxel_hides_lower_but_pale_does_not_hide_full_colour() -> None:
    paint = np.zeros((1, 1, 3), dtype=np.uint16)
    paint[0, 0, 0], paint[0, 0, 1], paint[0, 0, 2] = BUS_PAINT, CAR_PAINT, CAR_PAINT + PALE
    assert top_view(paint, PALETTE, 9)[4, 4].tolist() == OCC3D.palette[CAR].tolist()
    paint[0, 0, :2] = 0
    assert top_view(paint, PALETTE, 9)[4, 4].tolist() == PALETTE[CAR_PAINT + PALE].tolist()


def test_long_grid_is_centred() -> None:
    paint = np.full((4, 2, 1), CAR_PAINT, dtype=np.uint16)
    picture = top_view(paint, PALETTE, 40)
    assert picture[20, 5].tolist() == list(PANEL_COLOR)
    assert picture[20, 35].tolist() == list(PANEL_COLOR)
    assert picture[5, 15].tolist() == OCC3D.palette[CAR].tolist()


def test_grid_larger_than_the_picture_is_scaled_down() -> None:
    paint = np.zeros((60, 60, 1), dtype=np.uint16)
    paint[:, 30:] = CAR_PAINT  # the left half
    picture = top_view(paint, PALETTE, 50)
    assert picture.shape == (50, 50, 3)
    assert picture[25, 5].tolist() == OCC3D.palette[CAR].tolist()
    assert picture[25, 45].tolist() == list(FLOOR_COLOR)


def _ray_along_x(background: np.ndarray, paint: np.ndarray) -> list[int]:
    rays = np.zeros((6, 3))
    rays[0], rays[3] = (-5.0, 0.5, 0.5), (1.0, 0.0, 0.0)
    picture: list[int] = draw_voxels(paint, PALETTE, rays, background)[0, 0].tolist()
    return picture


def test_nearer_voxel_hides_farther() -> None:
    background = np.full((1, 1, 3), 7, dtype=np.uint8)
    paint = np.zeros((6, 1, 1), dtype=np.uint16)
    assert _ray_along_x(background, paint) == [7, 7, 7]
    paint[5] = BUS_PAINT
    far = _ray_along_x(background, paint)
    paint[2] = CAR_PAINT
    near = _ray_along_x(background, paint)
    # the face towards -x has brightness 0.84: car (0, 120, 245) -> (0, 100.8, 205.8); bus (240, 210, 0) -> (201.6, ...)
    assert near == [0, 101, 206]
    assert far == [202, 176, 0]


def test_ray_beside_the_grid_shows_the_background() -> None:
    rays = np.zeros((6, 3))
    rays[0], rays[3] = (-5.0, 1.5, 0.5), (1.0, 0.0, 0.0)
    paint = np.full((2, 1, 1), CAR_PAINT, dtype=np.uint16)
    assert draw_voxels(paint, PALETTE, rays, np.full((1, 1, 3), 9, dtype=np.uint8)).tolist() == [[[9, 9, 9]]]


def test_neighbour_darkens_the_corner_of_a_floor() -> None:
    paint = np.zeros((20, 20, 4), dtype=np.uint16)
    paint[:, :, 0] = CAR_PAINT
    open_floor = top_view(paint, PALETTE, 200)[100, 100].astype(int)
    paint[10, 10, 1:] = BUS_PAINT
    picture = top_view(paint, PALETTE, 200).astype(int)
    beside = picture[(20 - 1 - 11) * 10 + 9, (20 - 1 - 10) * 10 + 5]  # in front of the tower, at its foot
    assert beside.sum() < open_floor.sum()


def test_perspective_is_from_behind_and_the_left_is_left() -> None:
    grid = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 4))
    paint = np.zeros(grid.shape, dtype=np.uint16)
    paint[18, 18, 0] = CAR_PAINT  # ahead, left
    paint[1, 1, 0] = BUS_PAINT  # behind, right
    picture = perspective_view(paint, PALETTE, grid, floor_cells=0, width_px=120, height_px=90).astype(int)
    blue = np.argwhere(picture[..., 2] - picture[..., 0] > 90).mean(axis=0)
    yellow = np.argwhere(picture[..., 0] - picture[..., 2] > 90).mean(axis=0)
    assert blue[0] < yellow[0] - 20  # what lies ahead is higher in the picture
    assert blue[1] < 60 < yellow[1]


def test_wall_hides_what_is_behind_it_in_perspective() -> None:
    grid = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 16))
    paint = np.zeros(grid.shape, dtype=np.uint16)
    paint[14, 10, 0] = BUS_PAINT
    is_yellow = [_yellow(paint, grid)]
    paint[12, :, :12] = CAR_PAINT
    is_yellow.append(_yellow(paint, grid))
    assert is_yellow[0] > 0
    assert is_yellow[1] == 0


def test_floor_lies_below_the_lowest_voxel() -> None:
    paint = np.zeros((2, 2, 5), dtype=np.uint16)
    assert floor_of(paint) == 0
    paint[1, 0, 3] = CAR_PAINT
    assert floor_of(paint) == 3


def _yellow(paint: np.ndarray, grid: VoxelGrid) -> int:
    picture = perspective_view(paint, PALETTE, grid, floor_cells=0, width_px=120, height_px=90).astype(int)
    return int(np.count_nonzero(picture[..., 0] - picture[..., 2] > 60))


def _table(count: int, color: tuple[int, int, int]) -> ClassTable:
    """So many classes of one colour each, the last one free; the first has the given colour."""
    names = tuple(f"class_{number}" for number in range(count))
    colors = tuple((number, 255 - number, 40) for number in range(1, count))
    return ClassTable(names=names, colors=(color, *colors), free=count - 1)


def test_two_hundred_classes_have_two_hundred_paints() -> None:
    """None falls on an error, the vehicle, unknown, nothing, or the pale paint of another class."""
    table = _table(200, (0, 255, 0))
    labels = np.arange(200, dtype=np.uint8).reshape(200, 1, 1)
    full = paint_classes(labels, np.ones(labels.shape, bool), table).ravel()[:-1]
    pale = paint_classes(labels, np.zeros(labels.shape, bool), table).ravel()[:-1]
    fixed = {0, IGNORED_LIGHT, IGNORED_DARK, EGO_BODY, EGO_CABIN, CORRECT, WRONG_CLASS, MISSED, INVENTED}
    assert len({*full.tolist(), *pale.tolist(), *fixed}) == 2 * 199 + 9
    assert np.array_equal(make_palette(table)[full], table.palette[:-1])


def test_free_is_not_drawn_wherever_it_stands() -> None:
    table = ClassTable(names=("nothing", "car"), colors=((9, 9, 9), (0, 120, 245)), free=0)
    paint = paint_classes(np.array([0, 1], np.uint8).reshape(2, 1, 1), np.ones((2, 1, 1), bool), table)
    assert paint.ravel().tolist() == [0, FIRST_CLASS + 1]


def test_label_outside_the_table_is_refused() -> None:
    """It was drawn as nothing before."""
    with pytest.raises(DataError, match=r"holds class 18; the class table has 0..17 or 255 \(unknown\)"):
        paint_classes(np.full((1, 1, 1), 18, np.uint8), np.ones((1, 1, 1), bool), OCC3D)


@pytest.mark.parametrize("color", [(255, 255, 255), FLOOR_COLOR, PANEL_COLOR])
@pytest.mark.parametrize("in_mask", [True, False])
def test_class_in_the_colour_of_the_background_is_outlined(color: tuple[int, int, int], in_mask: bool) -> None:
    """From above and in perspective, one voxel and a whole floor; a class of a strong colour has no outline."""
    grid = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 4))
    table = _table(3, color)
    for place in (np.s_[10, 10, 0], np.s_[:, :, 0]):
        labels = np.full(grid.shape, table.free, np.uint8)
        labels[place] = 0
        paint = paint_classes(labels, np.full(grid.shape, in_mask), table)
        palette = make_palette(table)
        assert (top_view(paint, palette, 100) == OUTLINE_COLOR).all(axis=2).any()
        in_depth = perspective_view(paint, palette, grid, floor_cells=0, width_px=120, height_px=90)
        empty = perspective_view(paint * 0, palette, grid, floor_cells=0, width_px=120, height_px=90)
        darker = in_depth.astype(int).sum(axis=2) < empty.astype(int).sum(axis=2) - 60
        assert darker.sum() >= 8
    strong = paint_classes(np.full(grid.shape, 1, np.uint8), np.full(grid.shape, in_mask), table)
    assert not (top_view(strong, make_palette(table), 100) == OUTLINE_COLOR).all(axis=2).any()
