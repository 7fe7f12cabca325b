"""What can be seen of a grid from a point, in every direction: lines from the point through the faces of the grid."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float64
from numba import njit

from schemas.voxels.walk import enter_ray, is_inside, step


@njit(cache=True, nogil=True)
@no_type_check
def _mark(occupied, origin, direction, free, surfaces):
    voxel, times, course = enter_ray(origin, direction, occupied.shape)
    while is_inside(voxel, occupied.shape):
        if occupied[voxel]:
            surfaces[voxel] = True
            break
        free[voxel] = True
        voxel, times = step(voxel, times, course)


@njit(cache=True, nogil=True)
@no_type_check
def _see(occupied, origin, free, surfaces):
    size_x, size_y, size_z = occupied.shape
    direction = np.zeros(3)
    for x in range(size_x):
        for y in range(size_y):
            inner = 0 < x < size_x - 1 and 0 < y < size_y - 1
            for z in range(0, size_z, max(size_z - 1, 1) if inner else 1):
                direction[0], direction[1], direction[2] = x + 0.5, y + 0.5, z + 0.5
                direction -= origin
                if direction.any():
                    _mark(occupied, origin, direction, free, surfaces)


def see_around(
    occupied: Bool[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    free: Bool[np.ndarray, "X Y Z"],
    surfaces: Bool[np.ndarray, "X Y Z"],
) -> None:
    """Marks what lines from a point to the middle of every outer voxel pass and meet.

    The lines are at most a voxel apart at the faces of the grid and denser within.

    Args:
        occupied: what ends a line.
        origin: (3,) voxel units, inside the grid or not.
        free: set where a line passes a voxel that is not occupied; other voxels keep their value.
        surfaces: the same for the first occupied voxel of a line.
    """
    _see(occupied, origin, free, surfaces)
