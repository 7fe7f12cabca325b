"""Ground between the LiDAR's rings: a surface through the ground points, sampled evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.trend import smooth_surface
from pipelines.points import UNKNOWN
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid

_NO_GROUND: Final = -1


@dataclass(frozen=True)
class _Samples:
    """What the ground points say about each sample of the surface; axes: W along x, L along y."""

    known: Bool[np.ndarray, "w l"]
    """Whether ground points lie over the sample."""
    kind: Int64[np.ndarray, "w l"]
    """Their most frequent class, as its position in ``table.ground``."""
    height: Float64[np.ndarray, "w l"]
    """Mean height of the points of that class, voxels."""


def ground_votes(
    points: Float64[np.ndarray, "n 3"],
    labels: UInt8[np.ndarray, " n"],
    border: Float32[np.ndarray, "w l"] | None,
    *,
    grid: VoxelGrid,
    table: ClassTable,
    config: LidarConfig,
) -> Int32[np.ndarray, "X Y Z g"]:
    """Samples of the ground's surface in each voxel, by class.

    A column of voxels has `GroundSurfaceConfig.samples` squared samples. One that holds ground points has their most
    frequent class and its mean height. Other samples take the class of the nearest one on their side of the driveable
    area and the height of the smooth surface, moved to meet that one; there is none where points of unknown class at
    that height are nearer.

    Args:
        points: (N, 3) static points, voxel units.
        labels: their classes, or `UNKNOWN`.
        border: distance of each sample (see `sample_places`) to the border of the map's driveable area, voxels,
            positive within it; None without a map.
        grid: of the result.
        table: the classes.
        config: how far the surface reaches beyond its points, and how it is fitted.

    Returns:
        Samples of each of the G classes of ``table.ground``, in its order; ties went to the first.

    Source: Occ3D (arXiv 2304.14365), section 3.3: virtual grid points on a surface fitted to the ground.
    """
    samples = config.ground_surface.samples
    size = (grid.shape[0] * samples, grid.shape[1] * samples)
    votes = np.zeros((*grid.shape, len(table.ground)), dtype=np.int32)
    place, inside = _places_of(points, size, samples)
    kind_of = np.full(256, _NO_GROUND)
    kind_of[table.labels_of(table.ground)] = np.arange(len(table.ground))
    kinds = kind_of[labels]
    ground = inside & (kinds != _NO_GROUND)
    if not ground.any():
        return votes
    own = _collect(place[ground], kinds[ground], points[ground, 2], size, len(table.ground))
    smooth = smooth_surface(own.height, own.known, config.ground_surface)
    unknown = inside & (labels == UNKNOWN)
    blocked = _blocked(place[unknown], points[unknown, 2], smooth, config.ground_surface.step_voxels)
    is_driveable = own.kind == (table.ground.index(table.driveable) if table.driveable in table.ground else _NO_GROUND)
    reach = config.fill_ground_m / grid.voxel_size_m * samples
    sources = _nearest_sources(own.known, is_driveable, blocked, border, reach, config.border_stretch * samples)
    sampled = own.known[tuple(sources)]
    near = tuple(index[sampled] for index in sources)
    z = np.floor(smooth[sampled] + own.height[near] - smooth[near]).astype(np.int64)
    x, y = (index // samples for index in np.nonzero(sampled))
    level = (z >= 0) & (z < grid.shape[2])
    np.add.at(votes, (x[level], y[level], z[level], own.kind[near][level]), 1)
    return votes


def sample_places(shape: tuple[int, int, int], samples: int) -> Float64[np.ndarray, "w l 3"]:
    """Middles of the samples of all columns, on the lowest face of the grid, voxel units."""
    x, y = ((np.arange(size * samples) + 0.5) / samples for size in shape[:2])
    return np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], axis=-1)


def _places_of(
    points: Float64[np.ndarray, "n 3"], size: tuple[int, int], samples: int
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Number of the sample that each point lies over, and whether it lies over the grid."""
    x, y = (np.floor(points[:, axis] * samples).astype(np.int64) for axis in (0, 1))
    return x * size[1] + y, (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])


def _collect(
    place: Int64[np.ndarray, " n"],
    kinds: Int64[np.ndarray, " n"],
    height: Float64[np.ndarray, " n"],
    size: tuple[int, int],
    num_kinds: int,
) -> _Samples:
    """Most frequent kind of the points over each sample, and the mean height of those."""
    slot = place * num_kinds + kinds
    counts = np.bincount(slot, minlength=size[0] * size[1] * num_kinds).reshape(-1, num_kinds)
    sums = np.bincount(slot, weights=height, minlength=counts.size).reshape(-1, num_kinds)
    kind = counts.argmax(axis=1)
    number, total = (values[np.arange(len(kind)), kind] for values in (counts, sums))
    return _Samples((number > 0).reshape(size), kind.reshape(size), (total / np.maximum(number, 1)).reshape(size))


def _blocked(
    place: Int64[np.ndarray, " n"],
    height: Float64[np.ndarray, " n"],
    smooth: Float64[np.ndarray, "w l"],
    step_voxels: float,
) -> Bool[np.ndarray, "w l"]:
    """Samples with points of unknown class near the surface."""
    blocked = np.zeros(smooth.size, dtype=bool)
    blocked[place[np.abs(height - smooth.reshape(-1)[place]) < step_voxels]] = True
    return blocked.reshape(smooth.shape)


def _nearest_sources(
    known: Bool[np.ndarray, "w l"],
    is_driveable: Bool[np.ndarray, "w l"],
    blocked: Bool[np.ndarray, "w l"],
    border: Float32[np.ndarray, "w l"] | None,
    reach: float,
    stretch: float,
) -> Int64[np.ndarray, "2 w l"]:
    """Sample whose ground each sample takes over: itself if known, or the nearest one that the map agrees with.

    A sample takes ground from its own side of the driveable area's border only, and only from samples whose class fits
    that side. Where no source is in ``reach`` (samples), or unknown matter is nearer, a sample stays without ground.
    Differences in the distance to the border count ``stretch`` (samples per voxel) fold.
    """
    result = np.indices(known.shape)
    sides = [(np.ones_like(known), np.ones_like(known))]
    if border is not None:
        sides = [(border > 0, is_driveable), (border <= 0, ~is_driveable)]
    for here, agrees in sides:
        sources = here & ((known & agrees) | blocked)
        if sources.any():
            near = distance_transform_edt(~sources) <= reach
            taken, given = np.argwhere(here & ~known & near), np.argwhere(sources)
            _, nearest = cKDTree(_stretched(given, border, stretch)).query(_stretched(taken, border, stretch))
            result[:, taken[:, 0], taken[:, 1]] = given[nearest].T
    return result


def _stretched(
    places: Int64[np.ndarray, "n 2"], border: Float32[np.ndarray, "w l"] | None, stretch: float
) -> Float64[np.ndarray, "n c"]:
    """Where the nearest sample is looked for: position, and stretched distance to the driveable area's border."""
    if border is None:
        return places.astype(np.float64)
    return np.column_stack([places, stretch * border[tuple(places.T)]]).astype(np.float64)
