"""Heights of the vehicle: nuScenes poses lie in a plane (z = 0), so keyframes on a slope disagree about the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from pipelines.occupancy.chunks import Chunk

_CELL_M: Final = 1.0
_MIN_SHARED: Final = 100
"""Cells that two keyframes must share before their heights are compared."""


def vehicle_heights(chunks: Sequence[Chunk]) -> Float64[np.ndarray, " k"]:
    """Height of each keyframe's vehicle over the first one's, beyond what its pose says.

    Both keyframes of a pair see the same square metres; the median difference of their lowest points is the difference
    that the poses miss. Where poses are right it is near zero.

    Args:
        chunks: keyframes of a scene in order of time.

    Returns:
        (K,) metres; 0 for the first.
    """
    lows = [_lowest_points(chunk) for chunk in chunks]
    rises = [0.0]
    for before, after in zip(lows, lows[1:], strict=False):
        _, first, second = np.intersect1d(before[0], after[0], assume_unique=True, return_indices=True)
        missed = np.median(before[1][first] - after[1][second]) if len(first) >= _MIN_SHARED else 0.0
        rises.append(rises[-1] + float(missed))
    return np.array(rises)


def lift(chunk: Chunk, rise_m: float) -> Chunk:
    """The chunk with all positions moved up."""
    shift = np.array([0.0, 0.0, rise_m])
    rays = replace(chunk.rays, origins=chunk.rays.origins + shift, ends=(chunk.rays.ends + shift).astype(np.float32))
    return replace(chunk, cells=(chunk.cells + shift).astype(np.float32), rays=rays, sensors=chunk.sensors + shift)


def _lowest_points(chunk: Chunk) -> tuple[Int64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Number of each square metre that the chunk saw, ascending, and the height of its lowest point."""
    square = np.floor(chunk.cells[:, :2] / _CELL_M).astype(np.int64)
    keys = square[:, 0] * (1 << 32) + square[:, 1]
    order = np.lexsort((chunk.cells[:, 2], keys))
    numbers, first = np.unique(keys[order], return_index=True)
    return numbers, chunk.cells[order[first], 2].astype(np.float64)
