"""Occupied voxels that the keyframe's own rays pass more often than they hit them: hits against passes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int32

from pipelines.occupancy.carving import CarveLimits, Segments, count_passes
from pipelines.occupancy.kernels import add_votes
from pipelines.occupancy.tuning import EvidenceConfig


def outvoted_voxels(
    occupied: Bool[np.ndarray, "X Y Z"],
    found: Int32[np.ndarray, "X Y Z"],
    lidar: Float64[np.ndarray, " 3"],
    returns: Float64[np.ndarray, "n 3"],
    config: EvidenceConfig,
) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels whose share of hits is not above the ratio.

    With h returns in a voxel, p rays through it to returns well behind and n samples of matter found in it, the share
    is

        (h + q) / (h + q + p),  q = prior_hits * (1 + ln(1 + n)).

    Only the keyframe's own sweep has a say: it saw this very moment, without drift and without things that moved. A
    voxel that its rays do not pass stays as it is.

    Args:
        occupied: voxels that may become free.
        found: points of all sweeps in each voxel, mirrored ones and samples of the ground's surface included.
        lidar: (3,) position of the LiDAR at the keyframe, voxel units.
        returns: (N, 3) what it measured, voxel units; may lie outside the grid.
        config: ratio, prior hits, what is no pass.

    Source: the reflection model of grid maps, hits over hits and passes, with a prior.
    """
    hits, passes = np.zeros((*occupied.shape, 1), np.int32), np.zeros(occupied.shape, np.int32)
    ones = np.ones(len(returns), np.int32)
    add_votes(hits, returns, np.eye(4), labels=np.zeros(len(returns), np.uint8), weights=ones)
    rays = Segments(lidar[None], np.zeros(len(returns), np.int64), returns)
    limits = CarveLimits(stop_before_hit=config.ignore_end_voxels)
    count_passes(passes, rays, weights=ones, on_ground=np.zeros(len(returns), bool), limits=limits)
    in_favour = hits[..., 0] + config.prior_hits * (1 + np.log1p(found))
    return occupied & (passes > 0) & (in_favour <= config.ratio * (in_favour + passes))
