"""Losses of single pixels on image cells: each cell should tell the shares of its pixels, none of which is mixed.

A cell of s x s pixels holds a count of each class and of each bin of depth. The loss is the cross entropy of these
shares, which is that of the pixels when each takes the logits of its cell. Sparse targets count as far as they go.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from protoocc.pixels import DepthBins


def class_counts(
    labels: UInt8[Tensor, "n H W"] | Int64[Tensor, "n H W"], grid: tuple[int, int], stride: int, num_classes: int
) -> Float[Tensor, "n L h w"]:
    """Pixels of each class in each cell.

    Args:
        labels: class of each pixel; numbers from ``num_classes`` on are unknown.
        grid: (h, w) cells; those in the padding hold no pixel.
        stride: pixels per cell.
        num_classes: L.
    """
    known = labels < num_classes
    return _counts(labels.long(), known.float(), grid, stride, num_classes)


def depth_counts(
    depth_m: Float[Tensor, "n H W"], grid: tuple[int, int], stride: int, bins: DepthBins
) -> Float[Tensor, "n bins h w"]:
    """Pixels of each bin of depth in each cell; a pixel counts for the two bins whose middles are next to it.

    Args:
        depth_m: depth of each pixel along the camera's axis; 0 where unknown.
        grid: (h, w) cells.
        stride: pixels per cell.
        bins: nearer and farther depths belong to the first and the last one.
    """
    known = (depth_m > 0).float()
    place = (bins.place(depth_m.clamp_min(1e-3)) - 0.5).clamp(0, bins.count - 1)
    below = place.floor()
    above_share = place - below
    near = _counts(below.long(), known * (1 - above_share), grid, stride, bins.count)
    return near + _counts((below.long() + 1).clamp_max(bins.count - 1), known * above_share, grid, stride, bins.count)


def cell_cross_entropy(
    logits: Float[Tensor, "n L h w"], counts: Float[Tensor, "n L h w"], weights: Sequence[float] | None = None
) -> Float[Tensor, ""]:
    """Mean over all known pixels of -log p(what the pixel is), p that of its cell; 0 where no pixel is known.

    Args:
        logits: of each cell.
        counts: pixels of each kind in each cell.
        weights: of each kind; None counts all alike.
    """
    if weights is not None:
        counts = counts * counts.new_tensor(weights)[:, None, None]
    return share_loss(logits.float().log_softmax(1), counts)


def share_loss(logarithms: Float[Tensor, "n L h w"], counts: Float[Tensor, "n L h w"]) -> Float[Tensor, ""]:
    """`cell_cross_entropy` of logarithms of probabilities."""
    return -(counts * logarithms).sum() / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)


def _counts(
    kind: Int64[Tensor, "n H W"], weight: Float[Tensor, "n H W"], grid: tuple[int, int], stride: int, kinds: int
) -> Float[Tensor, "n kinds h w"]:
    """Sum of the weights of the pixels of each kind in each cell; kinds of weight 0 may be any number."""
    images, height, width = kind.shape
    rows = torch.arange(height, device=kind.device) // stride
    columns = torch.arange(width, device=kind.device) // stride
    cells = torch.arange(images, device=kind.device)[:, None, None] * (grid[0] * grid[1])
    cells = cells + rows[:, None] * grid[1] + columns
    inside: Bool[Tensor, "n H W"] = weight > 0
    places = cells[inside] * kinds + kind[inside]
    size = images * grid[0] * grid[1] * kinds
    summed = torch.bincount(places, weights=weight[inside], minlength=size)
    return summed.view(images, grid[0], grid[1], kinds).permute(0, 3, 1, 2).to(weight.dtype)
