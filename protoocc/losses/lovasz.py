"""Lovasz-softmax: the convex surrogate of the Jaccard index (Berman et al., CVPR 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def lovasz_softmax(
    probabilities: Float[Tensor, "views n L"], labels: Int64[Tensor, " n"], weights: Float[Tensor, " n"]
) -> Float[Tensor, " views"]:
    """Lovasz-softmax of each view, mean over the classes that occur in the labels; zero for no voxel.

    Args:
        probabilities: of each class, 0..1.
        labels: class of each voxel, 0..L-1; unknown voxels are left out by the caller.
        weights: how many voxels each stands for.
    """
    present = torch.unique(labels)
    if len(present) == 0:
        return probabilities.sum((1, 2)) * 0.0
    foreground = labels == present[:, None]
    predicted = probabilities.index_select(2, present).mT.contiguous()
    errors = (foreground.to(predicted.dtype) - predicted).abs()
    ordered, order = errors.sort(dim=-1, descending=True)
    with torch.no_grad():
        hits = foreground.expand_as(errors).gather(-1, order)
        steps = _jaccard_steps(hits.to(errors.dtype), weights.to(errors.dtype)[order])
    per_class: Tensor = (ordered * steps).sum(-1)
    return per_class.mean(-1)


def _jaccard_steps(hits: Float[Tensor, "*batch n"], weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Growth of the Jaccard loss when voxels turn wrong one by one, in order of their errors."""
    weighted = hits * weights
    total = weighted.sum(-1, keepdim=True)
    found, passed = weighted.cumsum(-1), weights.cumsum(-1)
    jaccard = 1.0 - (total - found) / (total + passed - found)
    return torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], dim=-1)
