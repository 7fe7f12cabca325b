"""What rays say about the voxels that they pass: carving by the LiDAR, claims of camera pixels (numba kernels)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from numba import njit

from schemas.voxels.walk import enter_ray, enter_segment, is_inside, step


@dataclass(frozen=True)
class Segments:
    """LiDAR rays from sensor to hit, voxel units; both ends may lie outside the grid."""

    origins: Float64[np.ndarray, "o 3"]
    origin_of: Int64[np.ndarray, " r"]
    ends: Float64[np.ndarray, "r 3"]


@dataclass(frozen=True)
class CarveLimits:
    """Voxels that a ray passes but that do not count as seen through; distances from voxel centres, voxel units."""

    ignore_ends: float = 0.0
    """L1 distance to either end of the ray below which nothing counts."""
    ignore_above_ground: float = 0.0
    """Of rays that end on the ground: height above the hit below which nothing counts."""
    stop_before_hit: float = 0.0
    """Distance to the hit at which the ray ends."""


@njit(cache=True, nogil=True)
@no_type_check
def _carve(counts, rays, weights, on_ground, limits):
    shape = counts.shape
    origins, origin_of, ends = rays
    ignore, road_ignore, stop = limits
    for ray in range(len(ends)):
        start, end = origins[origin_of[ray]], ends[ray]
        hit = (int(np.floor(end[0])), int(np.floor(end[1])), int(np.floor(end[2])))
        voxel, times, course = enter_segment(start, end, shape)
        while is_inside(voxel, shape) and voxel != hit:
            x, y, z = voxel
            to_x, to_y, to_z = x + 0.5 - end[0], y + 0.5 - end[1], z + 0.5 - end[2]
            if to_x * to_x + to_y * to_y + to_z * to_z < stop * stop:
                break
            near_hit = abs(to_x) + abs(to_y) + abs(to_z) < ignore
            near_start = abs(x + 0.5 - start[0]) + abs(y + 0.5 - start[1]) + abs(z + 0.5 - start[2]) < ignore
            if not (near_hit or near_start or (on_ground[ray] and to_z < road_ignore)):
                counts[voxel] += weights[ray]
            if voxel == course[0]:
                break
            voxel, times = step(voxel, times, course)


def count_passes(
    counts: Int32[np.ndarray, "X Y Z"],
    rays: Segments,
    *,
    weights: Int32[np.ndarray, " r"],
    on_ground: Bool[np.ndarray, " r"],
    limits: CarveLimits,
) -> None:
    """Adds to every voxel the weights of the rays that pass through it before they hit; the hit voxel gets nothing.

    Args:
        counts: changed in place.
        rays: from sensor to hit.
        weights: how many measured rays each one stands for.
        on_ground: whether the hit lies on the ground.
        limits: what does not count.

    Source: Occ3D (arXiv 2304.14365), algorithms 1 and 2.
    """
    numbers = (float(limits.ignore_ends), float(limits.ignore_above_ground), float(limits.stop_before_hit))
    _carve(counts, (rays.origins, rays.origin_of, rays.ends), weights, on_ground, numbers)


@njit(cache=True, nogil=True)
@no_type_check
def _count_claims(against, in_favour, semantics, origin, directions, classes):
    shape = semantics.shape
    for ray in range(len(directions)):
        first, count = -1, 0
        voxel, times, course = enter_ray(origin, directions[ray], shape)
        while is_inside(voxel, shape):
            if semantics[voxel] == classes[ray]:
                in_favour[voxel] += 1
                first = count if first < 0 else first
            count += 1
            voxel, times = step(voxel, times, course)
        voxel, times, course = enter_ray(origin, directions[ray], shape)
        for _ in range(first):
            against[voxel] += 1
            voxel, times = step(voxel, times, course)


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
    _count_claims(against, in_favour, semantics, origin, directions, classes)
    return against, in_favour


@njit(cache=True, nogil=True)
@no_type_check
def _segment_steps(shape, origins, origin_of, ends):
    count = 0
    for ray in range(len(ends)):
        voxel, times, course = enter_segment(origins[origin_of[ray]], ends[ray], shape)
        while is_inside(voxel, shape):
            count += 1
            if voxel == course[0]:
                break
            voxel, times = step(voxel, times, course)
    return count


@njit(cache=True, nogil=True)
@no_type_check
def _ray_steps(occupied, origin, directions):
    count = 0
    for ray in range(len(directions)):
        voxel, times, course = enter_ray(origin, directions[ray], occupied.shape)
        while is_inside(voxel, occupied.shape):
            count += 1
            if occupied[voxel]:
                break
            voxel, times = step(voxel, times, course)
    return count


def count_segment_steps(rays: Segments, shape: tuple[int, int, int]) -> int:
    """Number of voxels that LiDAR rays pass, their last ones included: how fast carving can be at best."""
    return int(_segment_steps(shape, rays.origins, rays.origin_of, rays.ends))


def count_ray_steps(
    occupied: Bool[np.ndarray, "X Y Z"], origin: Float64[np.ndarray, " 3"], directions: Float64[np.ndarray, "r 3"]
) -> int:
    """Number of voxels that camera rays see, those they meet included: how fast visibility can be at best.

    Args:
        occupied: what stops a ray.
        origin: (3,) voxel units.
        directions: (R, 3) unit vectors in the grid's axes.
    """
    return int(_ray_steps(occupied, origin, directions))
