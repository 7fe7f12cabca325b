"""Frustum proportion: shares of the classes in each small frustum of an image (MonoScene, section 3.4)."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from protoocc.batch import Batch
from schemas.geometry import VoxelGrid

SIDE: Final = 8
"""An image is cut into so many equal rows and as many columns."""
NEAREST_DEPTH_M: Final = 0.1
"""A voxel whose centre is closer to the camera's plane lies in no frustum, as it is seen by no network."""


def frusta_of(places: Int64[Tensor, " n"], batch: Batch, sample: int, grid: VoxelGrid) -> Int64[Tensor, "V n"]:
    """Number of the frustum of each camera in which the centre of a voxel lies, row by row; SIDE * SIDE for none.

    Args:
        places: positions in the flattened (X, Y, Z) volume of the sample.
        batch: with images and calibration.
        sample: which one of it.
        grid: of the volume.
    """
    centers = torch.stack(torch.unravel_index(places, grid.shape), dim=-1) + 0.5
    points_ego = centers.double() * grid.voxel_size_m + centers.new_tensor(grid.minimum_m, dtype=torch.float64)
    camera_from_ego = batch.camera_from_ego[sample].double()
    points_camera = points_ego @ camera_from_ego[:, :3, :3].mT + camera_from_ego[:, None, :3, 3]
    depth_m = points_camera[..., 2]
    image = points_camera @ batch.image_from_camera[sample].double().mT
    height, width = batch.images.shape[-2:]
    share = image[..., :2] / torch.where(depth_m > NEAREST_DEPTH_M, depth_m, 1.0)[..., None]
    column, row = (share / share.new_tensor([width, height]) * SIDE).floor().long().unbind(-1)
    inside = (depth_m > NEAREST_DEPTH_M) & (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    return torch.where(inside, row * SIDE + column, SIDE * SIDE)


def frustum_loss(
    probabilities: Float[Tensor, "views n L"],
    labels: Int64[Tensor, " n"],
    weights: Float[Tensor, " n"],
    frusta: Int64[Tensor, "V n"],
) -> Float[Tensor, " views"]:
    """Mean over the frusta that hold a voxel of KL(shares of the labels || mean of the probabilities); 0 for none.

    Args:
        probabilities: of each class, 0..1.
        labels: class of each voxel; unknown voxels are left out by the caller.
        weights: how many voxels each stands for.
        frusta: see `frusta_of`; those of different cameras are different ones.
    """
    views, _, classes = probabilities.shape
    weighted = (probabilities * weights[:, None].to(probabilities.dtype)).double()
    total, count = weighted.sum((1, 2)) * 0.0, 0
    for number in frusta:
        told = weighted.new_zeros(views, SIDE * SIDE + 1, classes).index_add(1, number, weighted)[:, :-1]
        places, size = number * classes + labels, (SIDE * SIDE + 1) * classes
        counts = torch.bincount(places, weights=weights.double(), minlength=size)
        held = counts.double().view(-1, classes)[:-1]
        filled = held.sum(-1) > 0
        total = total + _divergence(_shares(held[filled]), _shares(told[:, filled])).sum(-1)
        count += int(filled.sum())
    return (total / max(count, 1)).to(probabilities.dtype)


def _shares(counts: Float[Tensor, "*any L"]) -> Float[Tensor, "*any L"]:
    return counts / counts.sum(-1, keepdim=True)


def _divergence(target: Float[Tensor, "f L"], told: Float[Tensor, "views f L"]) -> Float[Tensor, "views f"]:
    """KL(target || told) over the classes that the target holds."""
    logarithms = told.clamp_min(torch.finfo(torch.float32).tiny).log()
    return (torch.xlogy(target, target) - target * logarithms).sum(-1)
