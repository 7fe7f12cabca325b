"""Section 3.2.2 in loops: the deformable attention map G and the pixel features X of equation (2)."""

from __future__ import annotations

import math
from typing import Any

from tests.protoocc.reference.arithmetic import Matrix, Vector, sigmoid


def attention_map(locations: Any, weights: Any, height: int, width: int) -> Matrix:
    """G[cell][k]: the weights of all sampling points of hit k, shared bilinearly among cells, mean over the heads.

    Args:
        locations: ``locations[k][head][level][point] = (u, v)``, a share of the image.
        weights: ``weights[k][head][level][point]``.
        height: rows h' of the grid.
        width: columns w' of the grid.
    """
    result = []
    for row in range(height):
        for column in range(width):
            cell = []
            for places, shares in zip(locations, weights, strict=True):
                total = 0.0
                for head, head_shares in zip(places, shares, strict=True):
                    for level, level_shares in zip(head, head_shares, strict=True):
                        for (u, v), share in zip(level, level_shares, strict=True):
                            total += share * nearness(u, column, width) * nearness(v, row, height)
                cell.append(total / len(places))
            result.append(cell)
    return result


def nearness(share: float, cell: int, cells: int) -> float:
    """Bilinear weight of a place for a cell: 1 at the centre (cell + 1/2) / cells, 0 one cell further."""
    return max(0.0, 1.0 - abs(share * cells - (cell + 0.5)))


def pixel_features(
    attention: Matrix, similarity: Matrix, voxel_prototypes: Matrix, *, scale: float, shift: float
) -> tuple[Matrix, list[bool]]:
    """(2): X[cell] = sum_k sum_m G[cell][k] / (sum_j G[cell][j]) * H(A)[m][k] * P_vox[m].

    Args:
        attention: G.
        similarity: A.
        voxel_prototypes: P_vox.
        scale: a of H(A) = sigmoid(a A + b - log M).
        shift: b.

    Returns:
        X, zero where no hit looked, and whether one did.
    """
    cells, seen, log_count = [], [], math.log(len(voxel_prototypes))
    for shares in attention:
        total = sum(shares)
        feature: Vector = [0.0] * len(voxel_prototypes[0])
        for k, share in enumerate(shares):
            for m, prototype in enumerate(voxel_prototypes):
                bridge = (share / total if total > 0 else 0.0) * sigmoid(scale * similarity[m][k] + shift - log_count)
                feature = [value + bridge * part for value, part in zip(feature, prototype, strict=True)]
        cells.append(feature)
        seen.append(total > 0)
    return cells, seen
