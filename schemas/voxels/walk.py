"""The steps of a walk through a voxel grid, as kernels that others are built of; `traverse` lists them for one segment.

A walk is a loop over voxels::

    voxel, times, course = enter_segment(start, end, shape)  # or enter_ray(start, direction, shape)
    while is_inside(voxel, shape):
        ...  # use the voxel
        if voxel == course[0]:  # the last one
            break
        voxel, times = step(voxel, times, course)

``times`` holds the t at which the line crosses the next face of each axis, start + t * direction; of a segment the
direction is end - start. ``course`` holds last voxel, steps (-1 or 1) and the t from face to face, by axis.

numba keeps compiled kernels beside the file that defines them and looks at that file alone: whoever changes a kernel
here deletes the `__pycache__` folders of the modules that call it.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int64
from numba import njit


@njit(cache=True, nogil=True)
@no_type_check
def clip(start, direction, shape, t_end):
    """Part (t_in, t_out) of a line within the grid and the axis it enters along, -1 inside; t_in > t_out if none is."""
    t_in, t_out, axis = 0.0, t_end, -1
    for i in range(3):
        if direction[i] == 0.0:
            if start[i] < 0.0 or start[i] >= shape[i]:
                return 1.0, 0.0, -1
            continue
        t_low, t_high = -start[i] / direction[i], (shape[i] - start[i]) / direction[i]
        if t_low > t_high:
            t_low, t_high = t_high, t_low
        if t_low > t_in:
            t_in, axis = t_low, i
        t_out = min(t_out, t_high)
    return t_in, t_out, axis


@njit(cache=True, nogil=True)
@no_type_check
def _first_voxel(start, direction, t_in, size):
    """First voxel of one axis; rounding must not put a line that enters from outside beside the grid."""
    voxel = int(np.floor(start + t_in * direction))
    return min(max(voxel, 0), size - 1) if t_in > 0.0 else voxel


@njit(cache=True, nogil=True)
@no_type_check
def _course(start, direction, voxel, last):
    """One axis: last voxel, step, t of the first face, t from face to face; nothing is crossed where none is left."""
    forward = 1 if direction > 0.0 else -1
    if direction == 0.0 or forward * (last - voxel) <= 0:
        return voxel, forward, np.inf, np.inf
    face = voxel + 1 if forward > 0 else voxel
    return last, forward, (face - start) / direction, forward / direction


@njit(cache=True, nogil=True)
@no_type_check
def _begin(start, direction, t_in, shape, last):
    x = _first_voxel(start[0], direction[0], t_in, shape[0])
    y = _first_voxel(start[1], direction[1], t_in, shape[1])
    z = _first_voxel(start[2], direction[2], t_in, shape[2])
    last_x, step_x, t_x, gap_x = _course(start[0], direction[0], x, last[0])
    last_y, step_y, t_y, gap_y = _course(start[1], direction[1], y, last[1])
    last_z, step_z, t_z, gap_z = _course(start[2], direction[2], z, last[2])
    return (x, y, z), (t_x, t_y, t_z), ((last_x, last_y, last_z), (step_x, step_y, step_z), (gap_x, gap_y, gap_z))


@njit(cache=True, nogil=True)
@no_type_check
def _nowhere():
    return (-1, -1, -1), (np.inf, np.inf, np.inf), ((-1, -1, -1), (1, 1, 1), (np.inf, np.inf, np.inf))


@njit(cache=True, nogil=True)
@no_type_check
def enter_segment(start, end, shape):
    """First voxel of a segment, times, course; the voxel lies outside if the segment misses the grid."""
    direction = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    t_in, t_out, _ = clip(start, direction, shape, 1.0)
    if t_in > t_out:
        return _nowhere()
    last = (int(np.floor(end[0])), int(np.floor(end[1])), int(np.floor(end[2])))
    return _begin(start, direction, t_in, shape, last)


@njit(cache=True, nogil=True)
@no_type_check
def enter_ray(start, direction, shape):
    """First voxel of a ray, times, course; the voxel lies outside if the ray misses the grid."""
    t_in, t_out, _ = clip(start, direction, shape, np.inf)
    if t_in > t_out:
        return _nowhere()
    last_x = shape[0] if direction[0] > 0.0 else -1
    last_y = shape[1] if direction[1] > 0.0 else -1
    last_z = shape[2] if direction[2] > 0.0 else -1
    return _begin(start, direction, t_in, shape, (last_x, last_y, last_z))


@njit(cache=True, nogil=True)
@no_type_check
def is_inside(voxel, shape):
    """Whether a voxel belongs to the grid."""
    return 0 <= voxel[0] < shape[0] and 0 <= voxel[1] < shape[1] and 0 <= voxel[2] < shape[2]


@njit(cache=True, nogil=True)
@no_type_check
def nearest_axis(times):
    """Axis whose face comes first; ties go to x, then y."""
    if times[0] <= times[1] and times[0] <= times[2]:
        return 0
    return 1 if times[1] <= times[2] else 2


@njit(cache=True, nogil=True)
@no_type_check
def step(voxel, times, course):
    """The next voxel and its times."""
    last, steps, gaps = course
    x, y, z = voxel
    t_x, t_y, t_z = times
    axis = nearest_axis(times)
    if axis == 0:
        x += steps[0]
        t_x = t_x + gaps[0] if x != last[0] else np.inf
    elif axis == 1:
        y += steps[1]
        t_y = t_y + gaps[1] if y != last[1] else np.inf
    else:
        z += steps[2]
        t_z = t_z + gaps[2] if z != last[2] else np.inf
    return (x, y, z), (t_x, t_y, t_z)


@njit(cache=True, nogil=True)
@no_type_check
def list_segment(path, start, end, shape):
    """Writes the voxels of a segment to ``path`` (room for one of each layer and one more); returns their number."""
    voxel, times, course = enter_segment(start, end, shape)
    count = 0
    while is_inside(voxel, shape):
        path[count, 0], path[count, 1], path[count, 2] = voxel
        count += 1
        if voxel == course[0]:
            break
        voxel, times = step(voxel, times, course)
    return count


def traverse(
    start: Float[np.ndarray, " 3"], end: Float[np.ndarray, " 3"], shape: tuple[int, int, int]
) -> Int64[np.ndarray, "m 3"]:
    """Voxels of one segment, in order, first and last voxel included.

    Args:
        start: (3,) voxel units; may lie outside the grid.
        end: (3,) voxel units; may lie outside the grid.
        shape: number of voxels along x, y, z.

    Returns:
        (M, 3) indices; empty if the segment misses the grid.
    """
    path = np.empty((sum(shape) + 1, 3), dtype=np.int64)
    return path[: list_segment(path, start.astype(np.float64), end.astype(np.float64), shape)]
