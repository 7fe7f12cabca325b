"""Ego height drift: nuScenes poses lie in a plane (z = 0), so on a slope the ground seems to move under the vehicle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from pipelines.occupancy.kernels import cell_means, share_cells
from pipelines.occupancy.tuning import HeightDriftConfig


@dataclass(frozen=True)
class HeightDrift:
    """Height of the vehicle over the scene's first keyframe that its poses miss."""

    times_us: Int64[np.ndarray, " k"]
    """Keyframes, ascending."""
    drifts_m: Float64[np.ndarray, " k"]

    def at(self, time_us: int) -> float:
        """Metres; linear between keyframes, constant beyond them."""
        return float(np.interp(time_us, self.times_us, self.drifts_m))


def measure_height_drift(
    times_us: Sequence[int], clouds: Sequence[Float64[np.ndarray, "_ 3"]], config: HeightDriftConfig
) -> HeightDrift:
    """Drift from what keyframes see of the ground.

    Both keyframes of a pair see the same columns of half a metre; the median difference of the heights of flat ones is
    the difference that the poses miss. Where poses are right it is near zero.

    Args:
        times_us: of the keyframes, ascending.
        clouds: points of each keyframe's own sweep, metres, axes of the global frame.
        config: what columns are compared.
    """
    columns = [_flat_columns(cloud, config) for cloud in clouds]
    drifts = [0.0]
    for before, after in zip(columns, columns[1:], strict=False):
        _, first, second = np.intersect1d(before[0], after[0], assume_unique=True, return_indices=True)
        missed = np.median(before[1][first] - after[1][second]) if len(first) >= config.min_shared else 0.0
        drifts.append(drifts[-1] + float(missed))
    return HeightDrift(np.array(times_us, dtype=np.int64), np.array(drifts[: len(times_us)]))


def _flat_columns(
    points: Float64[np.ndarray, "n 3"], config: HeightDriftConfig
) -> tuple[Int64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Number and mean height of each column whose points lie at one height."""
    footprints = points * (1.0, 1.0, 0.0)
    first, column_of = share_cells(footprints, config.column_m, np.zeros(len(points), dtype=np.int64))
    means, _ = cell_means(points, column_of, len(first))
    lowest, highest = means[:, 2].copy(), means[:, 2].copy()
    np.minimum.at(lowest, column_of, points[:, 2])
    np.maximum.at(highest, column_of, points[:, 2])
    flat = highest - lowest < config.flat_m
    square = np.floor(points[first[flat], :2] / config.column_m).astype(np.int64)
    return square[:, 0] * (1 << 32) + square[:, 1], means[flat, 2]
