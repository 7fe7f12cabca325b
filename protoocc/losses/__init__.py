"""The objective, equation (6): cross entropy, Lovasz, mask contrast and scene consistency.

Every part is a mean over the samples of a batch: equal shares of a batch, computed apart by processes or one after the
other, have the batch's loss as their mean, and its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from protoocc.batch import Batch
from protoocc.losses.auxiliary import pixel_losses
from protoocc.losses.config import LossConfig
from protoocc.losses.consistency import consistency_loss
from protoocc.losses.contrastive import cell_segments, contrastive_loss
from protoocc.losses.lovasz import lovasz_softmax
from protoocc.losses.voxels import VoxelChoice, choose_voxels
from protoocc.network import NetworkOutput
from schemas.errors import ConfigError, DataError

__all__ = ["LossConfig", "VoxelChoice", "choose_voxels", "compute_losses"]


def compute_losses(
    output: NetworkOutput, batch: Batch, choice: VoxelChoice, config: LossConfig
) -> dict[str, Float[Tensor, ""]]:
    """All losses of one step.

    Args:
        output: of ``model(batch, choice.all)``.
        batch: with labels and pseudo masks.
        choice: from `choose_voxels`.
        config: weights and temperatures.

    Returns:
        Means over samples: ``ce`` and ``lovasz`` summed over the P + 1 views, ``cls`` as a mean over cells and
        ``cls_sum`` as the paper's sum (no gradient), ``cons``, and their weighted sum ``total``. A part that is
        switched off is zero, and so is what a sample without its voxels or cells adds. Networks with heads for single
        pixels add ``pixels`` (classes) and ``depth``.

    Raises:
        DataError: labels or pseudo masks are missing.
    """
    if batch.semantics is None:
        raise DataError(f"samples {batch.tokens} have no semantics; train on shards packed with labels")
    supervised, consistency = output.logits.split([len(choice.supervised), len(choice.consistency)], dim=1)
    counts = choice.counts(batch)
    labels = batch.semantics.flatten()[choice.supervised].long().split(counts)
    logarithms = _precise(supervised).log_softmax(-1)
    samples = list(zip(logarithms.split(counts, dim=1), labels, choice.weights.split(counts), strict=True))
    losses = {
        "ce": _mean([cross_entropy(*sample, config.class_weights).sum() for sample in samples]),
        "lovasz": _mean([lovasz_softmax(sample.exp(), known, weights).sum() for sample, known, weights in samples]),
        "cls": logarithms.new_zeros(()),
        "cons": logarithms.new_zeros(()),
    }
    if output.pixel_features is not None:
        summed, losses["cls"] = _mask_loss(output, batch, config)
        losses["cls_sum"] = summed.detach()
    if len(output.logits) > 1:
        losses["cons"] = consistency_loss(_precise(consistency).softmax(-1), config.tau_cons)
    if output.pixels is not None:
        losses |= pixel_losses(output.pixels, batch)
    losses["total"] = (
        config.lambda_ce * losses["ce"]
        + config.lambda_lovasz * losses["lovasz"]
        + config.lambda_cls * losses["cls"]
        + config.lambda_cons * losses["cons"]
    )
    for name, weight in (("pixels", config.lambda_pixels), ("depth", config.lambda_depth)):
        if name in losses:
            losses["total"] = losses["total"] + weight * losses[name]
    return losses


def cross_entropy(
    logarithms: Float[Tensor, "views n L"],
    labels: Int64[Tensor, " n"],
    voxel_weights: Float[Tensor, " n"],
    class_weights: Sequence[float] | None = None,
) -> Float[Tensor, " views"]:
    """L_CE of each view: mean over the voxels of -log p(label), weighted by voxel and class.

    Args:
        logarithms: log-probabilities.
        labels: class 0..L-1 of each voxel.
        voxel_weights: how many voxels each stands for.
        class_weights: L weights; None counts all classes alike.

    Raises:
        ConfigError: the number of weights is not the number of classes.
    """
    classes = logarithms.shape[-1]
    if class_weights is not None and len(class_weights) != classes:
        raise ConfigError(f"loss.class_weights has {len(class_weights)} entries, the network has {classes} classes")
    weights = logarithms.new_ones(classes) if class_weights is None else logarithms.new_tensor(class_weights)
    weight = weights[labels] * voxel_weights.to(weights.dtype)
    chosen = logarithms.gather(-1, labels.expand(len(logarithms), -1)[..., None]).squeeze(-1)
    return -(chosen * weight).sum(-1) / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def _precise(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """What autocast left in 16 bits, in float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mask_loss(output: NetworkOutput, batch: Batch, config: LossConfig) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    if output.pixel_features is None or output.pixel_seen is None or output.pixel_stride is None:
        raise ValueError("a network that gives pixel_features also gives pixel_seen and pixel_stride")
    if batch.segment_id is None:
        raise DataError(f"samples {batch.tokens} have no pseudo masks; run `protoocc masks` and pack again")
    grid = (output.pixel_features.shape[2], output.pixel_features.shape[3])
    segments = cell_segments(batch.segment_id.flatten(0, 1), grid, output.pixel_stride)
    features, seen = _precise(output.pixel_features).flatten(2, 3), output.pixel_seen.flatten(2, 3)
    parts = [
        contrastive_loss(*sample, temperature=config.tau_cls)
        for sample in zip(features, seen, segments.flatten(1).unflatten(0, seen.shape[:2]), strict=True)
    ]
    return _mean([summed for summed, _ in parts]), _mean([mean for _, mean in parts])


def _mean(values: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    return torch.stack(list(values)).mean()
