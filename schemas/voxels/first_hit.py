"""What rays meet first, and where they enter and leave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numba import njit

from schemas.voxels.walk import enter_ray, is_inside, step


@dataclass(frozen=True)
class FirstHits:
    """The first occupied voxel of each ray; axes: origin O, direction R."""

    is_hit: Bool[np.ndarray, "o r"]
    """Whether the ray meets an occupied voxel."""
    voxels: Int64[np.ndarray, "o r 3"]
    """Index of that voxel; of a ray that meets none, of its last voxel in the grid, -1 if it misses the grid."""
    enters: Float64[np.ndarray, "o r"]
    """Distance at which the ray enters the voxel, 0 where it starts there; infinite if it misses the grid."""
    leaves: Float64[np.ndarray, "o r"]
    """Distance at which the ray leaves the voxel; infinite if it misses the grid."""


@njit(cache=True, nogil=True)
@no_type_check
def _stretch(voxel, start, direction):
    """Where a ray enters and leaves one of its voxels."""
    enters, leaves = 0.0, np.inf
    for axis in range(3):
        if direction[axis] != 0.0:
            near = voxel[axis] if direction[axis] > 0.0 else voxel[axis] + 1
            far = voxel[axis] + 1 if direction[axis] > 0.0 else voxel[axis]
            enters = max(enters, (near - start[axis]) / direction[axis])
            leaves = min(leaves, (far - start[axis]) / direction[axis])
    return enters, leaves


@njit(cache=True, nogil=True)
@no_type_check
def _hit(occupied, origins, directions, hits):
    shape = occupied.shape
    is_hit, voxels, enters, leaves = hits
    for o in range(len(origins)):
        start = origins[o]
        for r in range(len(directions)):
            voxel, times, course = enter_ray(start, directions[r], shape)
            last = voxel
            while is_inside(voxel, shape):
                last = voxel
                if occupied[voxel]:
                    is_hit[o, r] = True
                    break
                voxel, times = step(voxel, times, course)
            if last[0] >= 0:
                voxels[o, r, 0], voxels[o, r, 1], voxels[o, r, 2] = last
                enters[o, r], leaves[o, r] = _stretch(last, start, directions[r])


def first_hits(
    occupied: Bool[np.ndarray, "X Y Z"], origins: Float64[np.ndarray, "o 3"], directions: Float64[np.ndarray, "r 3"]
) -> FirstHits:
    """First occupied voxel on the rays in every direction from every origin.

    Args:
        occupied: what stops a ray.
        origins: (O, 3) voxel units; may lie outside the grid.
        directions: (R, 3) unit vectors in the grid's axes; vectors of another length give distances in their length.

    Returns:
        Hits with distances in voxel units. `enters` is what a depth image shows, `leaves` what RayIoU compares.
    """
    rays = (len(origins), len(directions))
    hits = FirstHits(np.zeros(rays, bool), np.full((*rays, 3), -1), np.full(rays, np.inf), np.full(rays, np.inf))
    _hit(occupied, origins, directions, (hits.is_hit, hits.voxels, hits.enters, hits.leaves))
    return hits
