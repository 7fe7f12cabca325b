"""Surface completion: voxels between points of one surface, which the rays happened to miss."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int32, UInt8
from scipy.ndimage import uniform_filter

from pipelines.occupancy.completion import is_ground_class
from schemas.classes import FREE, IGNORED

_MIN_POINTS: Final = 6
_FLATNESS: Final = 0.45
"""Largest thickness of a surface, as a share of its width (standard deviations)."""
_MARGIN: Final = 0.9
"""How deep in a voxel the plane must pass: share of the way from its middle to its corner along the normal."""
_MARGIN_IN_GROUND: Final = 0.5
_UPRIGHT: Final = 0.3
"""Largest upward part of the normal of a wall whose foot is looked for."""
_FOOT_BELOW: Final = 1.6
"""A foot lies at most so far below the middle of its wall's points, in voxels."""
_NEAR_MIDDLE: Final = 0.95
"""Largest distance along the surface between the middles of voxel and points, in voxels: no edge is extended."""


def fill_surfaces(
    semantics: UInt8[np.ndarray, "X Y Z"],
    passed: Bool[np.ndarray, "X Y Z"],
    points: Float64[np.ndarray, "n 3"],
    votes: Int32[np.ndarray, "X Y Z 18"],
) -> UInt8[np.ndarray, "X Y Z"]:
    """Occupies voxels that rays passed, where the plane of the points around them passes too.

    Voxels of the ground become the foot of an upright surface in the same way: LiDAR sees more ground than wall there.

    Args:
        semantics: classes, free = 17; unknown = 255.
        passed: where rays went through; other free voxels stay free.
        points: (N, 3) points of things, voxel units.
        votes: their number by voxel and class, unknown last.

    Returns:
        A changed copy; new voxels take the most frequent class of the 3 x 3 x 3 voxels around them.
    """
    moments = _moments(points, semantics.shape)
    is_open = (semantics == FREE) & passed
    index = np.argwhere((is_open | is_ground_class(semantics)) & (moments[..., 0] >= _MIN_POINTS - 0.5))
    m = moments[tuple(index.T)]
    mean = m[:, 1:4] / m[:, :1]
    pairs = np.array([[4, 5, 6], [5, 7, 8], [6, 8, 9]])
    covariance = m[:, pairs] / m[:, :1, None] - mean[:, :, None] * mean[:, None, :]
    spread, axes = np.linalg.eigh(covariance)
    normal = axes[:, :, 0]
    offset = mean - (index + 0.5)
    across = (offset * normal).sum(axis=1)
    along = np.sqrt(np.maximum((offset**2).sum(axis=1) - across**2, 0.0))
    is_flat = np.sqrt(np.maximum(spread[:, 0], 0.0)) < _FLATNESS * np.sqrt(np.maximum(spread[:, 1], 1e-9))
    depth = np.abs(across) / (0.5 * np.abs(normal).sum(axis=1))
    is_foot = (depth < _MARGIN_IN_GROUND) & (np.abs(normal[:, 2]) < _UPRIGHT) & (mean[:, 2] - index[:, 2] < _FOOT_BELOW)
    passes = np.where(is_open[tuple(index.T)], depth < _MARGIN, is_foot)
    chosen = index[is_flat & passes & (along < _NEAR_MIDDLE)]
    filled = semantics.copy()
    padded = np.pad(votes, ((1, 1), (1, 1), (1, 1), (0, 0)))
    for x, y, z in chosen:
        winner = int(padded[x : x + 3, y : y + 3, z : z + 3].sum(axis=(0, 1, 2)).argmax())
        filled[x, y, z] = IGNORED if winner == FREE else winner
    return filled


def _moments(points: Float64[np.ndarray, "n 3"], shape: tuple[int, ...]) -> Float64[np.ndarray, "X Y Z 10"]:
    """Number, sums and sums of products (xx, xy, xz, yy, yz, zz) of the points in each voxel and the 26 around it."""
    index = np.floor(points).astype(np.int64)
    inside = np.all((index >= 0) & (index < np.array(shape)), axis=1)
    p = points[inside]
    flat = np.ravel_multi_index(tuple(index[inside].T), shape)
    x, y, z = p.T
    values = [None, x, y, z, x * x, x * y, x * z, y * y, y * z, z * z]
    size = int(np.prod(shape))
    sums = [np.bincount(flat, weights=value, minlength=size).reshape(shape).astype(np.float64) for value in values]
    return np.stack([uniform_filter(value, 3, mode="constant") * 27 for value in sums], axis=-1)
