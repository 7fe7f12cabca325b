"""Draws painted voxels: one ray per pixel to the first voxel, shaded by face, corner occlusion and the sun's shadow."""

from __future__ import annotations

from typing import Final, no_type_check

import numba
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from protoocc.view.paint import Paint
from schemas.voxels.walk import clip, enter_ray, is_inside, nearest_axis, step

RayBundle = Float64[np.ndarray, "6 3"]
"""Origin, its step per column and per row, direction, its step per column and per row: voxel units, grid axes."""

FACE_LIGHT: Final = np.array([[0.84, 0.58], [0.66, 0.76], [0.5, 1.0]])
"""Brightness of the faces towards -x, +x; -y, +y; -z, +z."""
SUN: Final = np.array([-0.62, 0.50, 1.0])
"""Direction to the sun, voxel units: behind the vehicle, from the left."""
SHADOW_LIGHT: Final = 0.74
CORNER_LIGHT: Final = np.array([1.0, 0.88, 0.78, 0.68])
"""Brightness of a face's corner that 0..3 neighbours close in."""
EDGE_LIGHT: Final = 0.90
EDGE_WIDTH: Final = 0.035
"""Half width of the lines along voxel edges, voxel units."""
EDGE_PIXEL: Final = 0.24
"""Pixels at least this wide, voxel units, show no edges; below half of it they show them fully."""


def draw_voxels(
    paint: Paint,
    palette: UInt8[np.ndarray, "K 3"],
    rays: RayBundle,
    background: UInt8[np.ndarray, "H W 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Picture of painted voxels seen along a bundle of rays.

    Args:
        paint: palette row per voxel, 0 = empty.
        palette: RGB of each paint.
        rays: pixel (row, column) looks from ``rays[0] + column*rays[1] + row*rays[2]`` along
            ``rays[3] + column*rays[4] + row*rays[5]``; covers orthographic and perspective views.
        background: what pixels show whose ray meets no voxel; gives the size of the picture.
    """
    picture: Float32[np.ndarray, "H W 3"] = background.astype(np.float32)
    _draw(paint, palette.astype(np.float32), rays, picture, (FACE_LIGHT, SUN, CORNER_LIGHT))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


@numba.njit(cache=True)
@no_type_check
def _solid(paint, x, y, z):
    inside = 0 <= x < paint.shape[0] and 0 <= y < paint.shape[1] and 0 <= z < paint.shape[2]
    return inside and paint[x, y, z] != 0


@numba.njit(cache=True)
@no_type_check
def _first_hit(paint, origin, direction):
    """First painted voxel on a ray, the axis of the face it enters by (-1 if it meets none), and the t of that face."""
    at, end, axis = clip(origin, direction, paint.shape, np.inf)
    axis = 2 if axis < 0 else axis
    voxel, times, course = enter_ray(origin, direction, paint.shape)
    if at >= end:
        return voxel, -1, 0.0
    while is_inside(voxel, paint.shape):
        if paint[voxel] != 0:
            return voxel, axis, at
        axis = nearest_axis(times)
        at = times[axis]
        voxel, times = step(voxel, times, course)
    return voxel, -1, 0.0


@numba.njit(cache=True)
@no_type_check
def _corner_light(paint, cell, point, axis, side, corner_light):
    """Brightness between the four corners of a face, bilinear; a corner darkens with its 0..3 solid neighbours."""
    u_axis, v_axis = (axis + 1) % 3, (axis + 2) % 3
    u, v = point[u_axis] - cell[u_axis], point[v_axis] - cell[v_axis]
    x, y, z = cell[0] + side * (axis == 0), cell[1] + side * (axis == 1), cell[2] + side * (axis == 2)
    light = 0.0
    for du in (-1, 1):
        ux, uy, uz = du * (u_axis == 0), du * (u_axis == 1), du * (u_axis == 2)
        beside_u = _solid(paint, x + ux, y + uy, z + uz)
        for dv in (-1, 1):
            vx, vy, vz = dv * (v_axis == 0), dv * (v_axis == 1), dv * (v_axis == 2)
            beside_v = _solid(paint, x + vx, y + vy, z + vz)
            diagonal = _solid(paint, x + ux + vx, y + uy + vy, z + uz + vz)
            closed = 3 if beside_u and beside_v else int(beside_u) + int(beside_v) + int(diagonal)
            weight = (u if du == 1 else 1.0 - u) * (v if dv == 1 else 1.0 - v)
            light += weight * corner_light[closed]
    return light


@numba.njit(cache=True)
@no_type_check
def _edge_light(cell, point, axis, pixel):
    """Darkens a thin line along the borders of a face; fades where a pixel is wide compared with the line."""
    nearest = 1.0
    for i in range(3):
        if i != axis:
            offset = point[i] - cell[i]
            nearest = min(nearest, offset, 1.0 - offset)
    cover = min(max((EDGE_WIDTH - nearest) / pixel + 0.5, 0.0), 1.0)
    visible = min(max((EDGE_PIXEL - pixel) / (EDGE_PIXEL / 2), 0.0), 1.0)
    return 1.0 - (1.0 - EDGE_LIGHT) * cover * visible


@numba.njit(cache=True)
@no_type_check
def _light(paint, cell, point, face, tables, start):
    axis, side = face
    face_light, sun, corner_light = tables
    light = face_light[axis, (side + 1) // 2] * _corner_light(paint, cell, point, axis, side, corner_light)
    if side * sun[axis] <= 0.0:
        return light
    start[:] = point
    start[axis] += 1e-4 * side
    shadowed = _first_hit(paint, start, sun)[1] >= 0
    return light * SHADOW_LIGHT if shadowed else light


@numba.njit(cache=True)
@no_type_check
def _draw(paint, palette, rays, picture, tables):
    ray = np.empty((4, 3))
    origin, direction, point = ray[0], ray[1], ray[2]
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            for i in range(3):
                origin[i] = rays[0, i] + column * rays[1, i] + row * rays[2, i]
                direction[i] = rays[3, i] + column * rays[4, i] + row * rays[5, i]
            cell, axis, at = _first_hit(paint, origin, direction)
            if axis < 0:
                continue
            pixel = 0.0
            for i in range(3):
                point[i] = origin[i] + at * direction[i]
                pixel += (rays[1, i] + at * rays[4, i]) ** 2
            side = -1 if direction[axis] > 0.0 else 1
            light = _light(paint, cell, point, (axis, side), tables, ray[3])
            light *= _edge_light(cell, point, axis, max(np.sqrt(pixel), 1e-9))
            for channel in range(3):
                picture[row, column, channel] = palette[paint[cell], channel] * light
