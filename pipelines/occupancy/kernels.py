"""Pure kernels over points: which box holds them, which cell they share, what they vote for."""

from __future__ import annotations

from typing import Final, no_type_check

import numpy as np
from jaxtyping import Float64, Int32, Int64, Shaped, UInt8
from numba import njit

OUTSIDE: Final = 0
IN_MARGIN: Final = 1
IN_BOX: Final = 2


@njit(cache=True, nogil=True)
@no_type_check
def _assign(points, box_from_points, half_sizes, margins, owner, place):
    margin, bottom = margins
    for box in range(len(half_sizes)):
        rotation, shift = box_from_points[box, :3, :3], box_from_points[box, :3, 3]
        h_x, h_y, h_z = half_sizes[box]
        for i in range(len(points)):
            if place[i] == IN_BOX:
                continue
            p_x, p_y, p_z = points[i]
            x = abs(rotation[0, 0] * p_x + rotation[0, 1] * p_y + rotation[0, 2] * p_z + shift[0])
            if x > h_x + margin:
                continue
            y = abs(rotation[1, 0] * p_x + rotation[1, 1] * p_y + rotation[1, 2] * p_z + shift[1])
            z = rotation[2, 0] * p_x + rotation[2, 1] * p_y + rotation[2, 2] * p_z + shift[2]
            if y > h_y + margin or abs(z) > h_z + margin:
                continue
            if x <= h_x and y <= h_y and bottom - h_z <= z <= h_z:
                owner[i], place[i] = box, IN_BOX
            elif place[i] == OUTSIDE:
                owner[i], place[i] = box, IN_MARGIN


def assign_boxes(
    points: Float64[np.ndarray, "n 3"],
    box_from_points: Float64[np.ndarray, "b 4 4"],
    half_sizes_m: Float64[np.ndarray, "b 3"],
    *,
    margin_m: float,
    bottom_m: float,
) -> tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, " n"]]:
    """Box of each point.

    Args:
        points: (N, 3) metres, any frame.
        box_from_points: (B, 4, 4) from that frame to each box; where boxes overlap the first one wins.
        half_sizes_m: (B, 3) half length, width, height.
        margin_m: how far around a box its margin reaches.
        bottom_m: height above the box's floor below which a point is in the margin, not in the box.

    Returns:
        (N,) index of the box or -1, and (N,) `OUTSIDE`, `IN_MARGIN` or `IN_BOX`.
    """
    owner = np.full(len(points), -1, dtype=np.int64)
    place = np.zeros(len(points), dtype=np.uint8)
    _assign(points, box_from_points, half_sizes_m, (float(margin_m), float(bottom_m)), owner, place)
    return owner, place


@njit(cache=True, nogil=True)
@no_type_check
def _vote(votes, points, voxel_from_points, labels, weights):
    size_x, size_y, size_z, _ = votes.shape
    m = voxel_from_points
    for i in range(len(points)):
        p_x, p_y, p_z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        x = np.floor(m[0, 0] * p_x + m[0, 1] * p_y + m[0, 2] * p_z + m[0, 3])
        y = np.floor(m[1, 0] * p_x + m[1, 1] * p_y + m[1, 2] * p_z + m[1, 3])
        z = np.floor(m[2, 0] * p_x + m[2, 1] * p_y + m[2, 2] * p_z + m[2, 3])
        if 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z:
            votes[int(x), int(y), int(z), labels[i]] += weights[i]


def add_votes(
    votes: Int32[np.ndarray, "X Y Z L"],
    points: Shaped[np.ndarray, "n 3"],
    voxel_from_points: Float64[np.ndarray, "4 4"],
    *,
    labels: UInt8[np.ndarray, " n"],
    weights: Int32[np.ndarray, " n"],
) -> None:
    """Adds each point's weight to its voxel's count of the point's label; points outside the grid add nothing.

    Args:
        votes: changed in place.
        points: (N, 3) metres, any frame, float32 or float64.
        voxel_from_points: 4x4 from that frame to voxel units (voxel i of an axis covers [i, i + 1)).
        labels: below the length of the last axis of ``votes``.
        weights: how many measured points each one stands for.
    """
    _vote(votes, points, voxel_from_points, labels, weights)


def share_cells(
    points: Float64[np.ndarray, "n 3"], cell_m: float, groups: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " n"]]:
    """Points that lie in the same cubic cell and the same group.

    Args:
        points: (N, 3) metres.
        cell_m: edge of a cell.
        groups: non-negative number of each point's group.

    Returns:
        (C,) first point of each cell and (N,) cell of each point; cells are ordered by group, then position.

    Raises:
        ValueError: the cells are too many for a 64-bit number.
    """
    cells = np.floor(points / cell_m).astype(np.int64)
    cells -= cells.min(axis=0, initial=0) if len(cells) else 0
    extent = cells.max(axis=0, initial=0) + 1
    if float(np.prod(extent.astype(np.float64))) * (float(groups.max(initial=0)) + 1.0) > 2.0**62:
        raise ValueError(f"cells of {cell_m} m are too small for points that reach {extent * cell_m} m")
    keys = ((groups * extent[0] + cells[:, 0]) * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]
    _, first, cell_of_point = np.unique(keys, return_index=True, return_inverse=True)
    return first.astype(np.int64), cell_of_point.reshape(-1).astype(np.int64)


def cell_means(
    points: Float64[np.ndarray, "n 3"], cell_of_point: Int64[np.ndarray, " n"], count: int
) -> tuple[Float64[np.ndarray, "c 3"], Int32[np.ndarray, " c"]]:
    """Mean and number of the points of each of ``count`` cells; every cell holds a point."""
    numbers = np.bincount(cell_of_point, minlength=count)
    sums = [np.bincount(cell_of_point, weights=points[:, axis], minlength=count) for axis in range(3)]
    return np.stack(sums, axis=1) / numbers[:, None], numbers.astype(np.int32)
