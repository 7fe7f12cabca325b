"""Zones of the grid whose scores are told apart: rings of distance from the vehicle and bands of height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int64, UInt8

from schemas.geometry import VoxelGrid

RING_EDGES_M: Final = (10.0, 20.0, 30.0, 40.0)
"""Horizontal distance from the origin of the ego frame. The grid of Occ3D ends at 40 m; its corners lie beyond."""
BAND_EDGES_M: Final = (0.2, 1.0, 2.0, 4.0)
"""Height above the origin of the ego frame, which stands on the road: its layer of voxels ends at 0.2 m in Occ3D."""
_ROUNDING_M: Final = 1e-6
"""Middles of voxels are sums of floating numbers: those on an edge belong above it."""


@dataclass(frozen=True)
class Zones:
    """Rings and bands in which the middle of some voxel lies."""

    rings: tuple[str, ...]
    """Such as `0-10 m`, from near to far."""
    bands: tuple[str, ...]
    """Such as `below 0.2 m`, from low to high."""
    index: UInt8[np.ndarray, "X Y Z"]
    """Number of the ring times the number of bands, plus the number of the band."""

    @classmethod
    def of(cls, grid: VoxelGrid) -> Zones:
        """The zones of a grid in the ego frame."""
        middles = grid.centers()
        distances_m = np.sqrt((middles[..., :2] ** 2).sum(axis=-1))
        rings, ring = _zones(distances_m, RING_EDGES_M, f"0-{RING_EDGES_M[0]:g} m")
        bands, band = _zones(middles[..., 2], BAND_EDGES_M, f"below {BAND_EDGES_M[0]:g} m")
        return cls(rings, bands, (ring * len(bands) + band).astype(np.uint8))


def _zones(
    values_m: Float[np.ndarray, "X Y Z"], edges_m: Sequence[float], first: str
) -> tuple[tuple[str, ...], Int64[np.ndarray, "X Y Z"]]:
    """Names of the zones that hold a value, and the number of each value's zone among them."""
    between = [f"{low:g}-{high:g} m" for low, high in zip(edges_m, edges_m[1:], strict=False)]
    names = (first, *between, f"above {edges_m[-1]:g} m")
    held, numbers = np.unique(np.digitize(values_m + _ROUNDING_M, edges_m), return_inverse=True)
    return tuple(names[number] for number in held), numbers.reshape(values_m.shape).astype(np.int64)
