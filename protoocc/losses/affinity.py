"""Scene-class affinity: precision, recall and specificity of whole scenes, differentiable (MonoScene, section 3.3).

Each is a share of expected counts; what a share lacks to 1 costs -log(share), as binary cross entropy against 1 does.
The cost of a share of zero is that of the smallest number of its type, 87 in float32 (the published 100).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def sem_scal(
    probabilities: Float[Tensor, "views n L"], labels: Int64[Tensor, " n"], weights: Float[Tensor, " n"]
) -> Float[Tensor, " views"]:
    """Semantic affinity of each view: mean over the classes that occur of the costs of their three shares.

    Precision = expected hits / expected predictions, recall = expected hits / voxels of the class, specificity =
    expected correct rejections / voxels of other classes, which no voxel of another class leaves out. 0 for no voxel.

    Args:
        probabilities: of each class, 0..1; free space is a class like the others.
        labels: class of each voxel; unknown voxels are left out by the caller.
        weights: how many voxels each stands for.
    """
    present = torch.unique(labels)
    if len(present) == 0:
        return probabilities.sum((1, 2)) * 0.0
    own, predicted, hit = _counts(probabilities, labels, weights.to(probabilities.dtype))
    others = weights.sum().double() - own
    rejected = 1.0 - (predicted - hit) / others.clamp_min(1.0)
    cost = _cost(hit, predicted) + _cost(hit, own) + torch.where(others > 0, _cost(rejected, others.new_ones(())), 0.0)
    return cost[:, present].mean(1).to(probabilities.dtype)


def geo_scal(
    probabilities: Float[Tensor, "views n L"], labels: Int64[Tensor, " n"], weights: Float[Tensor, " n"], free: int
) -> Float[Tensor, " views"]:
    """Geometric affinity of each view: the three costs of occupied against free.

    Without an occupied voxel precision and recall are left out, without a free one specificity.

    Args:
        probabilities: of each class, 0..1.
        labels: class of each voxel; unknown voxels are left out by the caller.
        weights: how many voxels each stands for.
        free: class that means free space.
    """
    weight = weights.double()
    is_free = (labels == free).double()
    empty = probabilities[..., free].double()
    occupied = ((1.0 - empty) * weight).sum(1)
    hit = ((1.0 - empty) * weight * (1.0 - is_free)).sum(1)
    full_count, free_count = (weight * (1.0 - is_free)).sum(), (weight * is_free).sum()
    found = torch.where(full_count > 0, _cost(hit, occupied) + _cost(hit, full_count), 0.0)
    spared = torch.where(free_count > 0, _cost((empty * weight * is_free).sum(1), free_count), 0.0)
    return (found + spared).to(probabilities.dtype)


def _counts(
    probabilities: Float[Tensor, "views n L"], labels: Int64[Tensor, " n"], weights: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " L"], Float[Tensor, "views L"], Float[Tensor, "views L"]]:
    """Voxels, expected predictions and expected hits of each class, summed in float64."""
    views, _, classes = probabilities.shape
    own = torch.bincount(labels, weights=weights.double(), minlength=classes)
    predicted = (probabilities * weights[:, None]).sum(1, dtype=torch.float64)
    chosen = probabilities.gather(-1, labels.expand(views, -1)[..., None]).squeeze(-1) * weights
    hit = predicted.new_zeros(views, classes).index_add(1, labels, chosen.double())
    return own, predicted, hit


def _cost(part: Tensor, whole: Tensor) -> Tensor:
    """-log(part / whole); the smallest float32 bounds both, so that gradients are numbers everywhere."""
    tiny = torch.finfo(torch.float32).tiny
    cost: Tensor = -(part / whole.clamp_min(tiny)).clamp_min(tiny).log()
    return cost
