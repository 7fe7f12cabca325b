"""Which voxels a point sees, told voxel by voxel: the rule of SemanticKITTI's `.occluded` and `.invalid`.

A voxel is hidden from a point if the straight line from its centre to the point meets an occupied voxel before the
point's own, the voxel itself included: so whatever is occupied is hidden too. Source: the tool that made the official
files, github.com/jbehley/voxelizer (`VoxelGrid::occludedBy`), of which this is the rule, not the code.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from schemas.voxels.walk import enter_segment, is_inside, step


@njit(cache=True, nogil=True)
@no_type_check
def _look_back(hidden, occupied, eye):
    shape = occupied.shape
    for x in range(shape[0]):
        for y in range(shape[1]):
            for z in range(shape[2]):
                if not hidden[x, y, z]:
                    continue
                if occupied[x, y, z]:
                    continue
                voxel, times, course = enter_segment((x + 0.5, y + 0.5, z + 0.5), eye, shape)
                blocked = False
                while voxel != course[0] and is_inside(voxel, shape):
                    if occupied[voxel]:
                        blocked = True
                        break
                    voxel, times = step(voxel, times, course)
                hidden[x, y, z] = blocked


def reveal(
    hidden: Bool[np.ndarray, "X Y Z"], occupied: Bool[np.ndarray, "X Y Z"], eye: Float[np.ndarray, " 3"]
) -> None:
    """Clears ``hidden`` where a point sees a voxel; where it is clear already, it stays.

    Args:
        hidden: changed in place.
        occupied: what stands in the way.
        eye: (3,) voxel units; may lie outside the grid.
    """
    _look_back(hidden, occupied, (float(eye[0]), float(eye[1]), float(eye[2])))
