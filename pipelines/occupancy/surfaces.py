"""Surface completion: voxels between points of one surface, which the rays happened to miss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from scipy.ndimage import uniform_filter

from pipelines.occupancy.ballot import winners
from pipelines.occupancy.tuning import SurfaceConfig
from schemas.classes import ClassTable

_COVARIANCE: Final = np.array([[4, 5, 6], [5, 7, 8], [6, 8, 9]])
"""Where `_moments` holds the sums of products that make a covariance matrix."""


@dataclass(frozen=True)
class _Planes:
    """Planes through the points in and around voxels; axis N: voxel. Lengths are in voxels."""

    normal: Float64[np.ndarray, "n 3"]
    flatness: Float64[np.ndarray, " n"]
    """Thickness of the points along the normal, as a share of their smaller width (standard deviations)."""
    depth: Float64[np.ndarray, " n"]
    """Where the plane passes: 0 through the middle of the voxel, 1 through its corner that is farthest along it."""
    aside: Float64[np.ndarray, " n"]
    """Distance along the plane between the middles of voxel and points."""
    above: Float64[np.ndarray, " n"]
    """Height of the middle of the points over the floor of the voxel."""


def fill_surfaces(
    semantics: UInt8[np.ndarray, "X Y Z"],
    passed: Bool[np.ndarray, "X Y Z"],
    points: Float64[np.ndarray, "n 3"],
    votes: Int32[np.ndarray, "X Y Z s"],
    table: ClassTable,
    config: SurfaceConfig,
) -> UInt8[np.ndarray, "X Y Z"]:
    """Occupies voxels that rays passed, where the plane of the points around them passes too.

    Voxels of the ground become the foot of an upright surface in the same way: LiDAR sees more ground than wall there.

    Args:
        semantics: labels.
        passed: where rays went through; other free voxels stay free.
        points: (N, 3) points of things, voxel units.
        votes: their number by voxel and slot, see `ballot`.
        table: the classes.
        config: what makes a plane.

    Returns:
        A changed copy; new voxels take the most frequent class of the 3 x 3 x 3 voxels around them.
    """
    moments = _moments(points, semantics.shape)
    is_open = (semantics == table.free) & passed
    has_points = moments[..., 0] >= config.min_points - 0.5  # sums of a running mean are whole numbers nearly
    voxels = np.argwhere((is_open | table.is_ground(semantics)) & has_points)
    planes = _fit_planes(moments[tuple(voxels.T)], voxels)
    is_foot = (
        (planes.depth < config.foot_margin)
        & (np.abs(planes.normal[:, 2]) < config.upright)
        & (planes.above < config.foot_below)
    )
    passes = np.where(is_open[tuple(voxels.T)], planes.depth < config.margin, is_foot)
    chosen = voxels[passes & (planes.flatness < config.flatness) & (planes.aside < config.near_middle)]
    filled = semantics.copy()
    filled[tuple(chosen.T)] = winners(_votes_around(votes, chosen), table)
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


def _fit_planes(moments: Float64[np.ndarray, "n 10"], voxels: Int64[np.ndarray, "n 3"]) -> _Planes:
    """Planes of least squares: through the mean m, normal to the axis of least variance.

    The covariance is E[p p^T] - m m^T; its eigenvalues are the variances along its eigenvectors, the smallest first.
    A plane at distance d from the middle of a cube of edge 1 meets it if d <= (|n_x| + |n_y| + |n_z|) / 2.
    """
    mean = moments[:, 1:4] / moments[:, :1]
    covariance = moments[:, _COVARIANCE] / moments[:, :1, None] - mean[:, :, None] * mean[:, None, :]
    variances, axes = np.linalg.eigh(covariance)
    normal = axes[:, :, 0]
    thickness, width = np.sqrt(np.maximum(variances[:, 0], 0.0)), np.sqrt(np.maximum(variances[:, 1], 1e-9))
    offset = mean - (voxels + 0.5)
    across = (offset * normal).sum(axis=1)
    return _Planes(
        normal=normal,
        flatness=thickness / width,
        depth=np.abs(across) / (0.5 * np.abs(normal).sum(axis=1)),
        aside=np.sqrt(np.maximum((offset**2).sum(axis=1) - across**2, 0.0)),
        above=mean[:, 2] - voxels[:, 2],
    )


def _votes_around(votes: Int32[np.ndarray, "X Y Z s"], voxels: Int64[np.ndarray, "n 3"]) -> Int32[np.ndarray, "n s"]:
    """Votes of the 3 x 3 x 3 voxels around each voxel."""
    padded = np.pad(votes, ((1, 1), (1, 1), (1, 1), (0, 0)))
    x, y, z = voxels.T
    total = np.zeros((len(voxels), votes.shape[3]), dtype=np.int32)
    for dx, dy, dz in product(range(3), repeat=3):
        total += padded[x + dx, y + dy, z + dz]
    return total
