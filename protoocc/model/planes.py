"""Three planes instead of voxels (TPVFormer, arXiv 2302.07817): a voxel is the sum of its shadows on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, int, int]

PLANES: Final = ((0, 1), (0, 2), (1, 2))
"""Axes of each plane: rows and columns of xy, xz and yz. Its cells are pillars along the axis that is left."""


def plane_points(shape: Shape, plane: tuple[int, int], count: int) -> Float[Tensor, "cells count 3"]:
    """Points on the pillar of each cell of a plane, shares (x, y, z) of the grid's extent, 0..1.

    Args:
        shape: cells along x, y, z.
        plane: one of `PLANES`.
        count: points of a pillar, in the middles of equal parts.
    """
    (along,) = {0, 1, 2} - set(plane)
    sizes = [count if axis == along else size for axis, size in enumerate(shape)]
    axes = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in sizes]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return grid.movedim(along, 2).flatten(0, 1).float()


def on_planes(points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 2"]:
    """Where points fall on each plane: (along its columns, along its rows), in shares 0..1."""
    return torch.stack([points[..., [column, row]] for row, column in PLANES], dim=-2)


def sum_planes(
    planes: Sequence[Float[Tensor, "B _ _ d"]], shape: Shape, voxels: Int64[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Features of voxels: the sum of what the planes hold where the voxel falls on them.

    Args:
        planes: xy, xz and yz, rows and columns as in `PLANES`; resized (bilinearly) where the grid is finer.
        shape: voxels of the grid along x, y, z.
        voxels: positions in the flattened (B, X, Y, Z) volume.
    """
    total = shape[0] * shape[1] * shape[2]
    sample = torch.div(voxels, total, rounding_mode="floor")
    place = torch.unravel_index(voxels - sample * total, shape)
    found = []
    for plane, (row, column) in zip(planes, PLANES, strict=True):
        fine = _resized(plane, (shape[row], shape[column]))
        cell = (sample * shape[row] + place[row]) * shape[column] + place[column]
        found.append(fine.flatten(0, 2).index_select(0, cell))
    return torch.stack(found).sum(0)


def _resized(plane: Float[Tensor, "B _ _ d"], size: tuple[int, int]) -> Float[Tensor, "B _ _ d"]:
    if (plane.shape[1], plane.shape[2]) == size:
        return plane
    resized = functional.interpolate(plane.movedim(-1, 1), size=size, mode="bilinear", align_corners=False)
    return resized.movedim(1, -1)
