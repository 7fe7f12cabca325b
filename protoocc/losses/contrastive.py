"""Contrastive learning of pixel features with pseudo masks, equation (3)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn import functional

from schemas.store import NO_SEGMENT


def cell_segments(
    segment_id: Integer[Tensor, "n H W"], grid_size: tuple[int, int], stride: int
) -> Int64[Tensor, "n h w"]:
    """Pseudo masks on the grid h' x w': each cell takes the pixel at its centre (nearest neighbour).

    Cells whose centre lies in the padding, outside (H, W), become `NO_SEGMENT`.
    """
    rows = torch.arange(grid_size[0], device=segment_id.device) * stride + stride // 2
    columns = torch.arange(grid_size[1], device=segment_id.device) * stride + stride // 2
    height, width = segment_id.shape[1:]
    cells = segment_id[:, rows.clamp(max=height - 1)][:, :, columns.clamp(max=width - 1)].long()
    inside = (rows < height)[:, None] & (columns < width)
    return torch.where(inside, cells, NO_SEGMENT)


def mask_contrast(
    features: Float[Tensor, "n d"], segments: Int64[Tensor, " n"], temperature: float
) -> Float[Tensor, " n"]:
    """L_cls of each cell of one image, equation (3): -log softmax over masks of <M_s, X> / tau at the cell's own mask.

    Args:
        features: X at the cells that count.
        segments: pseudo mask of each cell, any numbers.
        temperature: tau_cls.
    """
    names, mask = torch.unique(segments, return_inverse=True)
    sums = features.new_zeros(len(names), features.shape[1]).index_add(0, mask, features)
    centroids = sums / torch.bincount(mask, minlength=len(names))[:, None]
    similarity = functional.normalize(features, dim=-1) @ functional.normalize(centroids, dim=-1).T
    return functional.cross_entropy(similarity / temperature, mask, reduction="none")


def contrastive_loss(
    features: Float[Tensor, "n D d"],
    seen: Bool[Tensor, "n D"],
    segments: Int64[Tensor, "n D"],
    *,
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """L_cls over all cells of n images, as the paper's sum and as the mean that does not depend on the grid.

    Args:
        features: X.
        seen: cells that a query looked at; the others carry no loss.
        segments: pseudo mask of each cell; `NO_SEGMENT` carries no loss.
        temperature: tau_cls.
    """
    counted = seen & (segments != NO_SEGMENT)
    losses = torch.cat(
        [
            mask_contrast(image[keep], mask[keep], temperature)
            for image, keep, mask in zip(features, counted, segments, strict=True)
            if bool(keep.any())
        ]
        or [features.new_zeros(0)]
    )
    total = losses.sum()
    return total, total / max(len(losses), 1)
