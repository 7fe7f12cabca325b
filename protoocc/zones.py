"""Zones of the grid whose scores are told apart: rings of distance, bands of height, ranges before the vehicle.

Rings and bands lie side by side. Ranges lie one within the other, as published for SemanticKITTI: 12.8 m means 12.8 m
ahead and 6.4 m to either side of the middle, 25.6 and 51.2 m likewise, each a quarter, half and all of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int64, UInt8

from schemas.geometry import VoxelGrid, road_height_m

RING_EDGES_M: Final = (10.0, 20.0, 30.0, 40.0)
"""Horizontal distance from the origin of the ego frame. The grid of Occ3D ends at 40 m; its corners lie beyond."""
BAND_EDGES_M: Final = (0.2, 1.0, 2.0, 4.0)
"""Height above the road under the vehicle (`schemas.geometry.road_height_m`), whose layer of voxels ends at 0.2 m in
Occ3D."""
RANGE_SHARES: Final = (0.25, 0.5, 1.0)
"""Depth and width of the ranges as shares of those of the grid. Only grids that begin at the vehicle have
ranges (`VoxelGrid.looks_ahead`)."""
_ROUNDING_M: Final = 1e-6
"""Middles of voxels are sums of floating numbers: those on an edge belong above it."""


@dataclass(frozen=True)
class Zones:
    """Rings and bands in which the middle of some voxel lies, and ranges."""

    rings: tuple[str, ...]
    """Such as `0-10 m`, from near to far."""
    bands: tuple[str, ...]
    """Such as `below 0.2 m`, from low to high."""
    ranges: tuple[str, ...]
    """Such as `12.8 m`, from the innermost to the whole grid; none where the grid lies around the vehicle."""
    index: UInt8[np.ndarray, "X Y Z"]
    """(shell * number of rings + ring) * number of bands + band; the shell is the number of the innermost range that
    holds the voxel, 0 where there are no ranges."""

    @property
    def shells(self) -> int:
        """Number of shells: what a range holds beyond the next smaller one."""
        return max(len(self.ranges), 1)

    @classmethod
    def of(cls, grid: VoxelGrid) -> Zones:
        """The zones of a grid in the ego frame."""
        middles = grid.centers()
        distances_m = np.sqrt((middles[..., :2] ** 2).sum(axis=-1))
        rings, ring = _zones(distances_m, RING_EDGES_M, f"0-{RING_EDGES_M[0]:g} m")
        bands, band = _zones(middles[..., 2] - road_height_m(grid), BAND_EDGES_M, f"below {BAND_EDGES_M[0]:g} m")
        ranges, shell = _ranges(grid)
        index = (shell[..., None] * len(rings) + ring) * len(bands) + band
        return cls(rings, bands, ranges, index.astype(np.uint8))


def _ranges(grid: VoxelGrid) -> tuple[tuple[str, ...], Int64[np.ndarray, "X Y"]]:
    """Names of the ranges, and the number of the innermost one that holds each column of voxels."""
    shell = np.zeros(grid.shape[:2], dtype=np.int64)
    if not grid.looks_ahead:
        return (), shell
    depth_m, width_m = (count * grid.voxel_size_m for count in grid.shape[:2])
    middles = grid.centers()[:, :, 0, :2]
    ahead, aside_m = middles[..., 0], np.abs(middles[..., 1] - grid.minimum_m[1] - width_m / 2)
    for share in RANGE_SHARES[:-1]:
        shell += ~((ahead < share * depth_m - _ROUNDING_M) & (aside_m < share * width_m / 2 - _ROUNDING_M))
    return tuple(f"{share * depth_m:g} m" for share in RANGE_SHARES), shell


def _zones(
    values_m: Float[np.ndarray, "X Y Z"], edges_m: Sequence[float], first: str
) -> tuple[tuple[str, ...], Int64[np.ndarray, "X Y Z"]]:
    """Names of the zones that hold a value, and the number of each value's zone among them."""
    between = [f"{low:g}-{high:g} m" for low, high in zip(edges_m, edges_m[1:], strict=False)]
    names = (first, *between, f"above {edges_m[-1]:g} m")
    held, numbers = np.unique(np.digitize(values_m + _ROUNDING_M, edges_m), return_inverse=True)
    return tuple(names[number] for number in held), numbers.reshape(values_m.shape).astype(np.int64)
