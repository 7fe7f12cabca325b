"""Pure kernels: which voxels a straight line passes (Amanatides and Woo 1987), and what that says about them.

Conventions of every kernel here:
    Coordinates are voxel units: (p - minimum) / voxel size, so voxel i of an axis covers [i, i + 1).
    A segment starts in voxel floor(start) and ends in voxel floor(end); both belong to its path.
    One step crosses one face. Where two faces are met at the same time (an edge or a corner), x goes before y before z.
    A segment that starts outside the grid begins where it enters; the path ends where it leaves or at its end.
    Everything is float64 and runs in one fixed order, so results are the same on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64, UInt8
from numba import njit


@njit(cache=True)
@no_type_check
def _clip(start, end, shape):
    """Share (t_in, t_out) of the segment that lies in the grid; t_in > t_out if none does."""
    t_in, t_out = 0.0, 1.0
    for axis in range(3):
        slope = end[axis] - start[axis]
        if slope == 0.0:
            if start[axis] < 0.0 or start[axis] >= shape[axis]:
                return 1.0, 0.0
            continue
        t_low, t_high = -start[axis] / slope, (shape[axis] - start[axis]) / slope
        t_in = max(t_in, min(t_low, t_high))
        t_out = min(t_out, max(t_low, t_high))
    return t_in, t_out


@njit(cache=True)
@no_type_check
def _axis(start, end, t_in, size):
    """One axis of a path: first voxel, last voxel, step, t of the first crossing, t from crossing to crossing."""
    slope = end - start
    last = int(np.floor(end))
    cell = int(np.floor(start + t_in * slope))
    if t_in > 0.0:
        cell = min(max(cell, 0), size - 1)
    step = 1 if slope > 0.0 else -1
    if cell == last or step * (last - cell) < 0:
        return cell, cell, step, np.inf, np.inf
    face = cell + 1 if step > 0 else cell
    return cell, last, step, (face - start) / slope, step / slope


@njit(cache=True)
@no_type_check
def _nearest_axis(t_x, t_y, t_z):
    """Axis whose face comes first; ties go to x, then y."""
    if t_x <= t_y and t_x <= t_z:
        return 0
    return 1 if t_y <= t_z else 2


@njit(cache=True)
@no_type_check
def _path(start, end, shape, blocked, out):
    """Writes the path's voxels to ``out`` and returns their number; ends with the first blocked voxel, if any."""
    t_in, t_out = _clip(start, end, shape)
    if t_in > t_out:
        return 0
    x, last_x, step_x, t_x, gap_x = _axis(start[0], end[0], t_in, shape[0])
    y, last_y, step_y, t_y, gap_y = _axis(start[1], end[1], t_in, shape[1])
    z, last_z, step_z, t_z, gap_z = _axis(start[2], end[2], t_in, shape[2])
    count = 0
    while 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]:
        out[count, 0], out[count, 1], out[count, 2] = x, y, z
        count += 1
        if x == last_x and y == last_y and z == last_z:
            break
        if blocked is not None and blocked[x, y, z]:
            break
        axis = _nearest_axis(t_x, t_y, t_z)
        if axis == 0:
            x += step_x
            t_x = t_x + gap_x if x != last_x else np.inf
        elif axis == 1:
            y += step_y
            t_y = t_y + gap_y if y != last_y else np.inf
        else:
            z += step_z
            t_z = t_z + gap_z if z != last_z else np.inf
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

    Source: Amanatides and Woo, A fast voxel traversal algorithm for ray tracing, 1987.
    """
    out = np.empty((sum(shape) + 1, 3), dtype=np.int64)
    return out[: _path(start.astype(np.float64), end.astype(np.float64), shape, None, out)]


@njit(cache=True, nogil=True)
@no_type_check
def _carve(counts, origins, origin_of, ends, weights, on_ground, limits):
    shape = counts.shape
    ignore, road_ignore, stop = limits
    path = np.empty((shape[0] + shape[1] + shape[2] + 1, 3), dtype=np.int64)
    for ray in range(len(ends)):
        start, end = origins[origin_of[ray]], ends[ray]
        for step in range(_path(start, end, shape, None, path)):
            x, y, z = path[step, 0], path[step, 1], path[step, 2]
            if x == np.floor(end[0]) and y == np.floor(end[1]) and z == np.floor(end[2]):
                break
            to_x, to_y, to_z = x + 0.5 - end[0], y + 0.5 - end[1], z + 0.5 - end[2]
            if to_x * to_x + to_y * to_y + to_z * to_z < stop * stop:
                break
            if abs(to_x) + abs(to_y) + abs(to_z) < ignore:
                continue
            if abs(x + 0.5 - start[0]) + abs(y + 0.5 - start[1]) + abs(z + 0.5 - start[2]) < ignore:
                continue
            if on_ground[ray] and to_z < road_ignore:
                continue
            counts[x, y, z] += weights[ray]


@dataclass(frozen=True)
class CarveLimits:
    """Voxels that a ray passes but that do not count as seen through; distances from voxel centres, voxel units."""

    ignore_ends: float = 0.0
    """L1 distance to either end of the ray below which nothing counts."""
    ignore_above_ground: float = 0.0
    """Of rays that end on the ground: height above the hit below which nothing counts."""
    stop_before_hit: float = 0.0
    """Distance to the hit at which the ray ends."""


def count_passes(
    counts: Int32[np.ndarray, "X Y Z"],
    rays: tuple[Float64[np.ndarray, "o 3"], Int64[np.ndarray, " r"], Float64[np.ndarray, "r 3"]],
    *,
    weights: Int32[np.ndarray, " r"],
    on_ground: Bool[np.ndarray, " r"],
    limits: CarveLimits,
) -> None:
    """Adds to every voxel the weights of the rays that pass through it before they hit; the hit voxel gets nothing.

    Args:
        counts: changed in place.
        rays: sensor positions (O, 3), position of each ray (R,), and hits (R, 3); voxel units, may be outside the grid.
        weights: how many measured rays each one stands for.
        on_ground: whether the hit lies on the ground.
        limits: what does not count.

    Source: Occ3D (arXiv 2304.14365), algorithms 1 and 2.
    """
    origins, origin_of, ends = rays
    numbers = (float(limits.ignore_ends), float(limits.ignore_above_ground), float(limits.stop_before_hit))
    _carve(counts, origins, origin_of, ends, weights, on_ground, numbers)


@njit(cache=True, nogil=True)
@no_type_check
def _mark(seen, blocked, start, end, with_end):
    """Marks one segment's voxels, to the first blocked one at most (`_path` without the list, twice as fast).

    Returns their number. ``seen`` may be None: then nothing is written.
    """
    size_x, size_y, size_z = blocked.shape
    count = 0
    t_in, t_out = _clip(start, end, blocked.shape)
    if t_in > t_out:
        return count
    x, last_x, step_x, t_x, gap_x = _axis(start[0], end[0], t_in, size_x)
    y, last_y, step_y, t_y, gap_y = _axis(start[1], end[1], t_in, size_y)
    z, last_z, step_z, t_z, gap_z = _axis(start[2], end[2], t_in, size_z)
    while 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z:
        count += 1
        is_last = x == last_x and y == last_y and z == last_z
        if seen is not None and (with_end or not is_last):
            seen[x, y, z] = True
        if is_last or blocked[x, y, z]:
            break
        if t_x <= t_y and t_x <= t_z:
            x += step_x
            t_x = t_x + gap_x if x != last_x else np.inf
        elif t_y <= t_z:
            y += step_y
            t_y = t_y + gap_y if y != last_y else np.inf
        else:
            z += step_z
            t_z = t_z + gap_z if z != last_z else np.inf
    return count


@njit(cache=True, nogil=True)
@no_type_check
def _mark_all(seen, blocked, origin, ends, with_end):
    for ray in range(len(ends)):
        _mark(seen, blocked, origin, ends[ray], with_end[ray])


@njit(cache=True, nogil=True)
@no_type_check
def _look(visible, occupied, origin, directions, reach):
    for ray in range(len(directions)):
        _mark(visible, occupied, origin, origin + reach * directions[ray], True)


def mark_passed(
    passed: Bool[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    ends: Float64[np.ndarray, "r 3"],
    with_end: Bool[np.ndarray, " r"],
) -> None:
    """Marks the voxels that rays from one point pass.

    Args:
        passed: changed in place.
        origin: (3,) voxel units; may lie outside the grid.
        ends: (R, 3) voxel units; may lie outside the grid.
        with_end: whether each ray's last voxel counts.
    """
    _mark_all(passed, np.zeros_like(passed), origin, ends, with_end)


def reach_through(origin: Float64[np.ndarray, " 3"], shape: tuple[int, ...]) -> float:
    """A distance, voxel units, after which any ray from ``origin`` has left the grid."""
    return float(np.abs(origin).max()) + 2.0 * sum(shape)


def mark_visible(
    visible: Bool[np.ndarray, "X Y Z"],
    occupied: Bool[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    directions: Float64[np.ndarray, "r 3"],
) -> None:
    """Marks the voxels that rays from one point see: all up to and including the first occupied one.

    Args:
        visible: changed in place.
        occupied: what stops a ray.
        origin: (3,) voxel units; may lie outside the grid.
        directions: (R, 3) unit vectors in the grid's axes.

    Source: Occ3D (arXiv 2304.14365), algorithm 3 and section 3.3.2.
    """
    reach = reach_through(origin, occupied.shape)
    _look(visible, occupied, origin, directions, reach)


@njit(cache=True, nogil=True)
@no_type_check
def _hit(occupied, origin, directions, reach, cells, distances):
    shape = occupied.shape
    path = np.empty((shape[0] + shape[1] + shape[2] + 1, 3), dtype=np.int64)
    for ray in range(len(directions)):
        count = _path(origin, origin + reach * directions[ray], shape, occupied, path)
        if count == 0 or not occupied[path[count - 1, 0], path[count - 1, 1], path[count - 1, 2]]:
            continue
        entry = 0.0
        for axis in range(3):
            cells[ray, axis] = path[count - 1, axis]
            slope = directions[ray, axis]
            if slope != 0.0:
                face = cells[ray, axis] if slope > 0.0 else cells[ray, axis] + 1
                entry = max(entry, (face - origin[axis]) / slope)
        distances[ray] = entry


def first_hits(
    occupied: Bool[np.ndarray, "X Y Z"], origin: Float64[np.ndarray, " 3"], directions: Float64[np.ndarray, "r 3"]
) -> tuple[Int64[np.ndarray, "r 3"], Float64[np.ndarray, " r"]]:
    """First occupied voxel on each ray from one point.

    Args:
        occupied: what stops a ray.
        origin: (3,) voxel units; may lie outside the grid.
        directions: (R, 3) unit vectors in the grid's axes.

    Returns:
        (R, 3) index of the voxel, -1 where the ray meets none, and (R,) distance to where the ray enters it, voxel
        units, infinity where it meets none.
    """
    cells = np.full((len(directions), 3), -1, dtype=np.int64)
    distances = np.full(len(directions), np.inf)
    _hit(occupied, origin, directions, reach_through(origin, occupied.shape), cells, distances)
    return cells, distances


@njit(cache=True, nogil=True)
@no_type_check
def _count_claims(against, in_favour, semantics, origin, directions, classes, reach):
    shape = semantics.shape
    path = np.empty((shape[0] + shape[1] + shape[2] + 1, 3), dtype=np.int64)
    for ray in range(len(directions)):
        count = _path(origin, origin + reach * directions[ray], shape, None, path)
        first = count
        for step in range(count):
            x, y, z = path[step, 0], path[step, 1], path[step, 2]
            if semantics[x, y, z] == classes[ray]:
                in_favour[x, y, z] += 1
                first = min(first, step)
        if first < count:
            for step in range(first):
                against[path[step, 0], path[step, 1], path[step, 2]] += 1


def count_claims(
    semantics: UInt8[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    directions: Float64[np.ndarray, "r 3"],
    classes: UInt8[np.ndarray, " r"],
) -> tuple[Int32[np.ndarray, "X Y Z"], Int32[np.ndarray, "X Y Z"]]:
    """What rays that know the class they meet say about voxels; rays that meet none of their class say nothing.

    Args:
        semantics: class of each voxel.
        origin: (3,) where all rays start, voxel units; may lie outside the grid.
        directions: (R, 3) unit vectors in the grid's axes.
        classes: (R,) class that each ray meets.

    Returns:
        Number of rays that pass each voxel before the first one of their class, and number of rays of the voxel's own
        class that pass it anywhere, behind the first such voxel too.
    """
    against, in_favour = np.zeros(semantics.shape, np.int32), np.zeros(semantics.shape, np.int32)
    reach = reach_through(origin, semantics.shape)
    _count_claims(against, in_favour, semantics, origin, directions, classes, reach)
    return against, in_favour


@njit(cache=True, nogil=True)
@no_type_check
def _all_steps(blocked, origins, origin_of, ends):
    count = 0
    for ray in range(len(ends)):
        count += _mark(None, blocked, origins[origin_of[ray]], ends[ray], True)
    return count


def count_steps(
    blocked: Bool[np.ndarray, "X Y Z"],
    origins: Float64[np.ndarray, "o 3"],
    origin_of: Int64[np.ndarray, " r"],
    ends: Float64[np.ndarray, "r 3"],
) -> int:
    """Number of voxels that rays pass, and nothing else: how fast a traversal can be at best.

    Args:
        blocked: what stops a ray.
        origins: (O, 3) voxel units.
        origin_of: (R,) origin of each ray.
        ends: (R, 3) voxel units.
    """
    return int(_all_steps(blocked, origins, origin_of, ends))
