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
    features: Float[Tensor, "n D d"], segments: Int64[Tensor, "n D"], counted: Bool[Tensor, "n D"], temperature: float
) -> Float[Tensor, " cells"]:
    """L_cls of the cells that count, image after image, equation (3).

    -log softmax over the masks of its image of <M_s, X> / tau at the cell's own mask.

    Args:
        features: X of n images.
        segments: pseudo mask of each cell, numbers from 0 on in every image.
        counted: cells that count; a mask without one does not exist.
        temperature: tau_cls.
    """
    place = counted.nonzero(as_tuple=True)
    image, own, cells = place[0], segments[place], features[place]
    if len(own) == 0:
        return features.new_zeros(0)
    span = own.max() + 1
    names, mask = torch.unique(image * span + own, return_inverse=True)
    masks = torch.bincount(torch.div(names, span, rounding_mode="floor"), minlength=len(features))
    column = mask - (masks.cumsum(0) - masks)[image]
    width = int(masks.max())
    sums = features.new_zeros(len(features) * width, features.shape[2]).index_add(0, image * width + column, cells)
    centroids = functional.normalize(sums, dim=-1).unflatten(0, (-1, width))
    similarity = functional.normalize(features, dim=-1) @ centroids.mT
    exists = torch.arange(width, device=masks.device) < masks[:, None]
    logits = torch.where(exists[:, None], similarity / temperature, -torch.inf)
    return functional.cross_entropy(logits[place], column, reduction="none")


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
    losses = mask_contrast(features, segments, seen & (segments != NO_SEGMENT), temperature)
    total = losses.sum()
    return total, total / max(len(losses), 1)
