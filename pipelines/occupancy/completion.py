"""Ground between the LiDAR's rings: columns without a hit take over the ground of the nearest column that has one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, UInt8
from scipy.ndimage import distance_transform_edt

from schemas.classes import FREE, OCC3D_CLASSES

_FIRST_GROUND = OCC3D_CLASSES.index("driveable_surface")
_LAST_GROUND = OCC3D_CLASSES.index("terrain")


def fill_ground(
    semantics: UInt8[np.ndarray, "X Y Z"], votes: Int32[np.ndarray, "X Y Z 18"], reach_voxels: float
) -> UInt8[np.ndarray, "X Y Z"]:
    """Labels with the ground completed; occupied voxels keep their class.

    Args:
        semantics: classes, free = 17.
        votes: points per voxel and class.
        reach_voxels: how far from a column with ground votes, along the ground, others are filled.

    Returns:
        A changed copy. Filled voxels may be unobserved, as those of the ground mesh in Occ3D's files are.
    """
    ground = votes[..., _FIRST_GROUND : _LAST_GROUND + 1]
    per_voxel = ground.sum(axis=3)
    has_ground = per_voxel.any(axis=2)
    if not has_ground.any():
        return semantics.copy()
    height = per_voxel.argmax(axis=2)
    kind = np.take_along_axis(ground, height[..., None, None], axis=2)[:, :, 0].argmax(axis=2) + _FIRST_GROUND
    distance, (from_x, from_y) = distance_transform_edt(~has_ground, return_indices=True)
    x, y = np.nonzero((distance > 0) & (distance <= reach_voxels))
    z = height[from_x[x, y], from_y[x, y]]
    filled = semantics.copy()
    is_free = filled[x, y, z] == FREE
    filled[x[is_free], y[is_free], z[is_free]] = kind[from_x[x, y], from_y[x, y]][is_free]
    return filled
