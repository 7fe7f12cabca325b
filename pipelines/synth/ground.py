"""The ground: a raster of what lies where, raised by kerbs and by gentle hills, and where a ray meets it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import cv2
import numba
import numpy as np
from jaxtyping import Float, UInt8

from schemas.geometry import Pose

F = TypeVar("F", bound=Callable[..., Any])

HALF_SIZE_M: Final = 130.0
RESOLUTION_M: Final = 0.05
KERB_M: Final = 0.15

ASPHALT, PAINT_MARK, SIDEWALK, KERB, TERRAIN, ISLAND = range(6)
CATEGORY_OF_CODE: Final = (
    "flat.driveable_surface",
    "flat.driveable_surface",
    "flat.sidewalk",
    "flat.sidewalk",
    "flat.terrain",
    "flat.other",
)
_WAVELENGTHS_M: Final = (70.0, 120.0)
_NEAR_M: Final = 1e-3
"""A ray that is so little above the ground has met it."""
_FARTHEST_M: Final = 5000.0
Line = Float[np.ndarray, "_ 2"]
"""Points of a line or polygon, metres from the middle of the world."""


Triple = tuple[float, float, float]
"""x, y, z."""
Hills = Float[np.ndarray, "_ 4"]
"""Waves that add up to the ground's height: amplitude (m), wave numbers along x and y (1/m), phase (radians)."""


def compiled(function: F) -> F:
    """The function compiled by numba, kept on disk; run-time shape checks of the tests are stripped first."""
    return cast(F, numba.njit(cache=True, nogil=True)(inspect.unwrap(function)))


def pixels(points_m: Line) -> Float[np.ndarray, "n 2"]:
    """Raster coordinates (column from x, row from y) of points, metres from the middle of the world."""
    return (points_m + HALF_SIZE_M) / RESOLUTION_M


def draw_ground(
    main: Line, streets: list[Line], *, road_half_m: float, street_half_m: float, sidewalk_m: float
) -> UInt8[np.ndarray, "h w"]:
    """Raster of ground codes; row 0 is the southern edge.

    Args:
        main: closed line of the main road's middle.
        streets: middle lines of side streets.
        road_half_m: half width of the main road.
        street_half_m: half width of the side streets.
        sidewalk_m: width of the sidewalks.
    """
    side = round(2 * HALF_SIZE_M / RESOLUTION_M)
    ground = np.full((side, side), TERRAIN, np.uint8)
    lines = [(main, True, road_half_m), *((street, False, street_half_m) for street in streets)]
    for extra, code in ((sidewalk_m, SIDEWALK), (0.2, KERB), (0.0, ASPHALT)):
        for line, closed, half in lines:
            _stroke(ground, line, half + extra, code, closed=closed)
    _draw_marks(ground, main, streets, road_half_m, street_half_m)
    return ground


def _stroke(ground: UInt8[np.ndarray, "h w"], line: Line, half_m: float, code: int, *, closed: bool = False) -> None:
    points = np.round(pixels(line) * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(ground, [points], closed, (code,), max(1, round(2 * half_m / RESOLUTION_M)), cv2.LINE_8, 4)


def _dashes(line: Line, dash: int, gap: int) -> list[Line]:
    return [line[start : start + dash + 1] for start in range(0, len(line) - dash, dash + gap)]


def _shifted(line: Line, offset_m: float) -> Line:
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return line + offset_m * np.column_stack([-tangent[:, 1], tangent[:, 0]])


def _draw_marks(
    ground: UInt8[np.ndarray, "h w"], main: Line, streets: list[Line], road_half_m: float, street_half_m: float
) -> None:
    crossing = np.zeros_like(ground)
    for street in streets:
        _stroke(crossing, street, street_half_m + 1.5, 1)
    marks = np.zeros_like(ground)
    for dash in _dashes(main, 5, 7):
        _stroke(marks, dash, 0.08, 1)
    for offset in (3.5, -3.5):
        _stroke(marks, _shifted(main, offset), 0.07, 1, closed=True)
    on_main = np.zeros_like(ground)
    _stroke(on_main, main, road_half_m, 1, closed=True)
    ground[(marks > 0) & (crossing == 0) & (ground == ASPHALT)] = PAINT_MARK
    for street in streets:
        street_marks = np.zeros_like(ground)
        for dash in _dashes(street, 4, 6):
            _stroke(street_marks, dash, 0.08, 1)
        for index in np.flatnonzero(np.diff(_inside(on_main, street).astype(int))):
            _draw_zebra(street_marks, street, int(index), street_half_m, outward=bool(_inside(on_main, street)[index]))
        ground[(street_marks > 0) & (on_main == 0) & (ground == ASPHALT)] = PAINT_MARK


def _inside(mask: UInt8[np.ndarray, "h w"], line: Line) -> UInt8[np.ndarray, " n"]:
    index = np.clip(pixels(line).astype(int), 0, len(mask) - 1)
    result: UInt8[np.ndarray, " n"] = mask[index[:, 1], index[:, 0]]
    return result


def _draw_zebra(marks: UInt8[np.ndarray, "h w"], street: Line, index: int, half_m: float, *, outward: bool) -> None:
    step = 1 if outward else -1
    here = street[np.clip(index + 3 * step, 0, len(street) - 1)]
    there = street[np.clip(index + 9 * step, 0, len(street) - 1)]
    forward = (there - here) / np.linalg.norm(there - here)
    side = np.array([-forward[1], forward[0]])
    for offset in np.arange(-half_m + 0.6, half_m - 0.3, 1.0):
        _stroke(marks, np.stack([here, there]) + offset * side, 0.25, 1)


def draw_island(ground: UInt8[np.ndarray, "h w"], corners_m: Line) -> None:
    """Paves a polygon as other flat ground, raised by the kerb."""
    cv2.fillPoly(ground, [np.round(pixels(corners_m) * 16).astype(np.int32)], (ISLAND,), cv2.LINE_8, 4)


@compiled
def code_at(ground: UInt8[np.ndarray, "h w"], x: float, y: float) -> int:
    """Ground code at a point, metres from the middle; terrain outside the raster."""
    column = int(np.floor((x + HALF_SIZE_M) / RESOLUTION_M))
    row = int(np.floor((y + HALF_SIZE_M) / RESOLUTION_M))
    if column < 0 or row < 0 or column >= ground.shape[1] or row >= ground.shape[0]:
        return TERRAIN
    return int(ground[row, column])


@compiled
def height_of(code: int) -> float:
    """Height of a ground code: the road lies at 0, everything else a kerb higher."""
    return 0.0 if code <= PAINT_MARK else KERB_M


def draw_hills(generator: np.random.Generator, slope: float) -> Hills:
    """Two crossing waves of the ground's height; none for a slope of 0.

    Args:
        generator: source of directions, lengths and phases.
        slope: steepest rise, metres per metre; each wave has half of it.
    """
    first = generator.uniform(0.0, np.pi)
    angle = first + np.array([0.0, np.pi / 2]) + generator.uniform(-0.3, 0.3, 2)
    number = 2 * np.pi / generator.uniform(*_WAVELENGTHS_M, 2)
    phase = generator.uniform(0.0, 2 * np.pi, 2)
    waves = np.column_stack([slope / 2 / number, number * np.cos(angle), number * np.sin(angle), phase])
    return waves if slope > 0 else waves[:0]


@compiled
def rise_at(hills: Hills, x: float, y: float) -> float:
    """Height of the road at a point, metres."""
    rise = 0.0
    for i in range(len(hills)):
        rise += hills[i, 0] * np.sin(hills[i, 1] * x + hills[i, 2] * y + hills[i, 3])
    return rise


@compiled
def stand_on(hills: Hills, x: float, y: float, yaw: float, above_road_m: float) -> Pose:
    """``world_from_thing`` of something that stands on the ground and leans with it; its x axis heads along yaw."""
    slope_x, slope_y = 0.0, 0.0
    for i in range(len(hills)):
        along = hills[i, 0] * np.cos(hills[i, 1] * x + hills[i, 2] * y + hills[i, 3])
        slope_x += along * hills[i, 1]
        slope_y += along * hills[i, 2]
    up = np.array([-slope_x, -slope_y, 1.0]) / np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    c, s = np.cos(yaw), np.sin(yaw)
    left = np.array([-up[2] * s, up[2] * c, up[0] * s - up[1] * c])
    left /= np.sqrt(np.sum(left * left))
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = np.cross(left, up), left, up
    pose[0, 3], pose[1, 3], pose[2, 3] = x, y, rise_at(hills, x, y) + above_road_m
    return pose


@compiled
def _reach(hills: Hills, start: float, origin: Triple, direction: Triple) -> float:
    """Distance at which a ray from above the road meets its height, inf when it never does.

    Steps as far as the steepest ground cannot have come up to the ray; on the flat the first step arrives.
    """
    ox, oy, oz = origin
    dx, dy, dz = direction
    steepest = 0.0
    for i in range(len(hills)):
        steepest += hills[i, 0] * np.sqrt(hills[i, 1] ** 2 + hills[i, 2] ** 2)
    closing = steepest * np.sqrt(dx * dx + dy * dy) - dz
    if closing <= 1e-6:
        return np.inf
    reach = start
    while reach < _FARTHEST_M:
        gap = oz + reach * dz - rise_at(hills, ox + reach * dx, oy + reach * dy)
        if gap < _NEAR_M:
            return reach
        reach += gap / closing
    return np.inf


@compiled
def hit_ground(
    ground: UInt8[np.ndarray, "h w"], hills: Hills, origin: Triple, direction: Triple
) -> tuple[float, int, bool]:
    """Where a ray from above the kerb meets the ground.

    Args:
        ground: raster of ground codes.
        hills: waves of the road's height.
        origin: start of the ray, world frame, metres.
        direction: unit vector.

    Returns:
        Distance (inf when it never does), ground code, and whether it is the upright face of a kerb.
    """
    ox, oy, oz = origin
    dx, dy, _ = direction
    top = _reach(hills, 0.0, (ox, oy, oz - KERB_M), direction)
    if top == np.inf:
        return np.inf, TERRAIN, False
    code = code_at(ground, ox + top * dx, oy + top * dy)
    if height_of(code) > 0.0:
        return top, code, False
    bottom = _reach(hills, top, origin, direction)
    code = code_at(ground, ox + bottom * dx, oy + bottom * dy)
    if height_of(code) == 0.0:
        return bottom, code, False
    for _ in range(10):
        middle = 0.5 * (top + bottom)
        if height_of(code_at(ground, ox + middle * dx, oy + middle * dy)) > 0.0:
            bottom = middle
        else:
            top = middle
    return bottom, code_at(ground, ox + bottom * dx, oy + bottom * dy), True
