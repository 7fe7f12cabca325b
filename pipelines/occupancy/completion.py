"""Ground between the LiDAR's rings: a surface through the ground points, sampled evenly."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from scipy.spatial import cKDTree

from pipelines.occupancy.ground import BORDER_STRETCH
from schemas.classes import IGNORED, OCC3D_CLASSES

FIRST_GROUND: Final = OCC3D_CLASSES.index("driveable_surface")
LAST_GROUND: Final = OCC3D_CLASSES.index("terrain")
_KINDS: Final = LAST_GROUND - FIRST_GROUND + 1
_PARTS: Final = 4
"""Samples across a voxel."""
_SMOOTH_VOXELS: Final = 2.5
_TREND_VOXELS: Final = 10.0
_ANY_WEIGHT: Final = 1e-6
_STEP_VOXELS: Final = 1.0
"""Unknown matter within this height of the surface keeps known ground from spreading there."""


def is_ground_class(labels: UInt8[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Driveable surface, other flat, sidewalk, terrain: where rays end on the ground."""
    return (labels >= FIRST_GROUND) & (labels <= LAST_GROUND)


def ground_votes(
    points: Float64[np.ndarray, "n 3"],
    labels: UInt8[np.ndarray, " n"],
    border: Float32[np.ndarray, "w l"] | None,
    shape: tuple[int, int, int],
    reach_voxels: float,
) -> Int32[np.ndarray, "X Y Z 4"]:
    """Samples of the ground's surface in each voxel, by class.

    Each part of a column (`_PARTS` x `_PARTS` of them) that holds ground points has their most frequent class and its
    mean height. Other parts take the class of the nearest one on their side of the driveable area and the height of the
    smoothed surface, moved to meet that one; none is sampled where points of unknown class at that height are nearer.

    Args:
        points: (N, 3) static points, voxel units.
        labels: their classes, 255 unknown.
        border: distance of each part (see `parts_of_columns`) to the border of the map's driveable area, voxels,
            positive within it; None without a map.
        shape: voxels along x, y, z.
        reach_voxels: how far the surface reaches beyond its points.

    Returns:
        Samples of driveable surface, other flat, sidewalk, terrain.

    Source: Occ3D (arXiv 2304.14365), section 3.3: virtual grid points on a surface fitted to the ground.
    """
    size_x, size_y, size_z = shape
    width, length = size_x * _PARTS, size_y * _PARTS
    place, inside = _parts(points, width, length)
    ground = np.flatnonzero(is_ground_class(labels) & inside)
    votes = np.zeros((*shape, _KINDS), dtype=np.int32)
    if len(ground) == 0:
        return votes
    slot = place[ground] * _KINDS + labels[ground] - FIRST_GROUND
    counts = np.bincount(slot, minlength=width * length * _KINDS).reshape(-1, _KINDS)
    sums = np.bincount(slot, weights=points[ground, 2], minlength=counts.size).reshape(-1, _KINDS)
    kind = counts.argmax(axis=1)
    rows = np.arange(len(kind))
    known = (counts[rows, kind] > 0).reshape(width, length)
    height = (sums[rows, kind] / np.maximum(counts[rows, kind], 1)).reshape(width, length)
    smooth = _smooth(height, known)
    blocked = _blocked(points, np.flatnonzero((labels == IGNORED) & inside), place, smooth)
    sources = _nearest_sources(known, kind.reshape(width, length) == 0, blocked, border, reach_voxels)
    sampled = known[tuple(sources)]
    near = tuple(index[sampled] for index in sources)
    z = np.floor(smooth[sampled] + height[near] - smooth[near]).astype(np.int64)
    x, y = (index // _PARTS for index in np.nonzero(sampled))
    level = (z >= 0) & (z < size_z)
    np.add.at(votes, (x[level], y[level], z[level], kind.reshape(width, length)[near][level]), 1)
    return votes


def _nearest_sources(
    known: Bool[np.ndarray, "w l"],
    is_driveable: Bool[np.ndarray, "w l"],
    blocked: Bool[np.ndarray, "w l"],
    border: Float32[np.ndarray, "w l"] | None,
    reach_voxels: float,
) -> Int64[np.ndarray, "2 w l"]:
    """Part whose ground each part takes over: itself if known, or the nearest one that the map agrees with.

    A part takes ground from its own side of the driveable area's border only, and only from parts whose class fits that
    side. Differences in the distance to the border count fivefold more, as classes run along streets. Where no source
    is in reach, or unknown matter is nearer, a part stays without ground.
    """
    result = np.indices(known.shape)
    sides = [(np.ones_like(known), np.ones_like(known))]
    if border is not None:
        sides = [(border > 0, is_driveable), (border <= 0, ~is_driveable)]
    for here, agrees in sides:
        sources = here & ((known & agrees) | blocked)
        if sources.any():
            near = distance_transform_edt(~sources) <= reach_voxels * _PARTS
            taken, given = np.argwhere(here & ~known & near), np.argwhere(sources)
            _, nearest = cKDTree(_places(given, border)).query(_places(taken, border))
            result[:, taken[:, 0], taken[:, 1]] = given[nearest].T
    return result


def _places(parts: Int64[np.ndarray, "n 2"], border: Float32[np.ndarray, "w l"] | None) -> Float64[np.ndarray, "n c"]:
    """Where the nearest part is looked for: position, and distance to the border of the driveable area."""
    if border is None:
        return parts.astype(np.float64)
    return np.column_stack([parts, BORDER_STRETCH * _PARTS * border[tuple(parts.T)]]).astype(np.float64)


def parts_of_columns(shape: tuple[int, int, int]) -> Float64[np.ndarray, "w l 3"]:
    """Middles of the parts of all columns on the lowest face of the grid, voxel units."""
    x, y = ((np.arange(size * _PARTS) + 0.5) / _PARTS for size in shape[:2])
    return np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], axis=-1)


def _parts(
    points: Float64[np.ndarray, "n 3"], width: int, length: int
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Number of each point's part of a column, and whether it lies over the grid."""
    x, y = (np.floor(points[:, axis] * _PARTS).astype(np.int64) for axis in (0, 1))
    return x * length + y, (x >= 0) & (x < width) & (y >= 0) & (y < length)


def _smooth(height: Float64[np.ndarray, "w l"], known: Bool[np.ndarray, "w l"]) -> Float64[np.ndarray, "w l"]:
    """The trend of the known heights and, near them, the Gaussian mean of what they lie above it."""
    sigma = _SMOOTH_VOXELS * _PARTS
    trend = _trend(height, known)
    weight = gaussian_filter(known.astype(np.float64), sigma)
    above = gaussian_filter(np.where(known, height - trend, 0.0), sigma)
    return trend + np.where(weight > _ANY_WEIGHT, above / np.maximum(weight, _ANY_WEIGHT), 0.0)


def _trend(height: Float64[np.ndarray, "w l"], known: Bool[np.ndarray, "w l"]) -> Float64[np.ndarray, "w l"]:
    """Plane through the known heights around each column, nearer ones counting more, so that slopes go on."""
    columns = tuple(size // _PARTS for size in known.shape)
    weight = known.reshape(columns[0], _PARTS, columns[1], _PARTS).sum(axis=(1, 3)).astype(np.float64)
    total = np.where(known, height, 0.0).reshape(columns[0], _PARTS, columns[1], _PARTS).sum(axis=(1, 3))
    x, y = np.indices(columns)
    values = (
        weight,
        weight * x,
        weight * y,
        weight * x * x,
        weight * x * y,
        weight * y * y,
        total,
        total * x,
        total * y,
    )
    w, wx, wy, wxx, wxy, wyy, wz, wxz, wyz = (gaussian_filter(value, _TREND_VOXELS) for value in values)
    safe = np.maximum(w, _ANY_WEIGHT)
    x0, y0, z0 = wx / safe, wy / safe, wz / safe
    xx, xy, yy = wxx / safe - x0 * x0 + 1.0, wxy / safe - x0 * y0, wyy / safe - y0 * y0 + 1.0
    xz, yz = wxz / safe - x0 * z0, wyz / safe - y0 * z0
    determinant = xx * yy - xy * xy
    slope_x, slope_y = (xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant
    fitted = np.where(w > _ANY_WEIGHT, z0 + slope_x * (x - x0) + slope_y * (y - y0), height[known].mean())
    return zoom(fitted, _PARTS, order=1, mode="nearest", grid_mode=True)


def _blocked(
    points: Float64[np.ndarray, "n 3"],
    unknown: Int64[np.ndarray, " u"],
    place: Int64[np.ndarray, " n"],
    smooth: Float64[np.ndarray, "w l"],
) -> Bool[np.ndarray, "w l"]:
    """Parts of columns that hold points of unknown class near the surface."""
    blocked = np.zeros(smooth.size, dtype=bool)
    at = place[unknown]
    blocked[at[np.abs(points[unknown, 2] - smooth.reshape(-1)[at]) < _STEP_VOXELS]] = True
    return blocked.reshape(smooth.shape)
