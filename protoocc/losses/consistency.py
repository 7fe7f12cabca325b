"""Scene consistency: all views must predict the same occupancy, equations (4) and (5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sharpen(probabilities: Float[Tensor, "*batch L"], temperature: float) -> Float[Tensor, "*batch L"]:
    """Sharpened distribution: each probability to the power 1 / tau_cons, scaled to sum 1."""
    logarithms = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    return (logarithms / temperature).softmax(-1)


def consistency_loss(probabilities: Float[Tensor, "views n L"], temperature: float) -> Float[Tensor, ""]:
    """L_cons, equation (5): mean over views and voxels of the squared distance to the sharpened mean distribution.

    The target carries no gradient, as in GRAND.

    Args:
        probabilities: of each view, 0..1; a voxel is the same place in every view.
        temperature: tau_cons.
    """
    target = sharpen(probabilities.detach().mean(0), temperature)
    return (probabilities - target).square().sum(-1).mean()
