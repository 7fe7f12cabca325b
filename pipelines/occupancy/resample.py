"""Labels from one grid and frame to another."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import UInt8

from pipelines.occupancy.ballot import num_slots, winners
from schemas.classes import ClassTable
from schemas.geometry import Pose, VoxelGrid, invert_rigid, transform_points


def resample(
    semantics: UInt8[np.ndarray, "x y z"],
    source: VoxelGrid,
    target: VoxelGrid,
    *,
    ego_from_lidar: Pose,
    table: ClassTable,
) -> UInt8[np.ndarray, "X Y Z"]:
    """Labels on another grid.

    The rule: a target voxel is cut into n x n x n equal parts, n being the ratio of the voxel sizes, rounded, at least
    1. Each part takes what the source voxel under its middle holds. If any part holds a class, the voxel takes the most
    frequent class among them (of equals as in `ballot.winners`); else, if any part is unknown or lies outside the
    source grid, it is unknown; else it is free. Thin things survive a coarser grid, and nothing is invented beyond the
    source.

    Args:
        semantics: labels.
        source: grid of ``semantics``.
        target: grid of the result.
        ego_from_lidar: 4x4 mounting of the LiDAR at the keyframe.
        table: the classes.
    """
    source_from_target = _between(source, target, ego_from_lidar)
    parts = max(1, round(target.voxel_size_m / source.voxel_size_m))
    unknown = num_slots(table) - 1
    votes = np.zeros((int(np.prod(target.shape)), num_slots(table)), dtype=np.uint8 if parts <= 6 else np.uint16)
    slots = np.where(semantics == table.ignored, unknown, semantics)
    rows = np.arange(len(votes))
    centers = target.centers().reshape(-1, 3)
    offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * target.voxel_size_m
    for offset in itertools.product(offsets, repeat=3):
        index = source.voxel_index(transform_points(source_from_target, centers + np.array(offset)))
        inside = source.contains(index)
        slot = np.full(len(index), unknown)
        slot[inside] = slots[tuple(index[inside].T)]
        votes[rows, slot] += 1
    empty = np.where(votes[:, unknown], np.uint8(table.ignored), np.uint8(table.free))
    votes[:, [table.free, unknown]] = 0
    return np.where(votes.any(axis=1), winners(votes, table), empty).reshape(target.shape)


def _between(source: VoxelGrid, target: VoxelGrid, ego_from_lidar: Pose) -> Pose:
    """4x4 ``source_from_target`` of the grids' frames."""
    if source.frame == target.frame:
        return np.eye(4)
    return ego_from_lidar if source.frame == "ego" else invert_rigid(ego_from_lidar)
