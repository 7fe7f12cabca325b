"""The objective, equation (6): cross entropy, Lovasz, mask contrast and scene consistency.

Every part is a mean over the samples of a batch: equal shares of a batch, computed apart by processes or one after the
other, have the batch's loss as their mean, and its gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from protoocc.batch import Batch
from protoocc.losses.auxiliary import pixel_losses
from protoocc.losses.config import LossConfig
from protoocc.losses.consistency import consistency_loss
from protoocc.losses.contrastive import cell_segments, contrastive_loss
from protoocc.losses.occupancy import add_scene_losses, cross_entropy, mean, occupancy_losses, precise, weigh
from protoocc.losses.voxels import VoxelChoice, choose_voxels
from protoocc.network import NetworkConfig, NetworkOutput
from schemas.errors import DataError

__all__ = ["LossConfig", "VoxelChoice", "choose_voxels", "compute_losses", "cross_entropy"]


def compute_losses(
    output: NetworkOutput,
    batch: Batch,
    choice: VoxelChoice,
    config: LossConfig,
    network: NetworkConfig | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """All losses of one step.

    Args:
        output: of ``model(batch, choice.all)``.
        batch: with labels and pseudo masks.
        choice: from `choose_voxels`.
        config: weights and temperatures.
        network: settings of the network that gave the output; needed by ``geo_scal`` and ``frustum`` alone.

    Returns:
        Means over samples: ``ce`` and ``lovasz`` summed over the P + 1 views, ``cls`` as a mean over cells and
        ``cls_sum`` as the paper's sum (no gradient), ``cons``, and their weighted sum ``total``. A part that is
        switched off is zero, and so is what a sample without its voxels or cells adds. Scene losses with a
        weight add ``sem_scal``, ``geo_scal`` and ``frustum``, summed over the views; networks with heads for single
        pixels add ``pixels`` (classes) and ``depth``, those with logits of earlier layers ``auxiliary``.

    Raises:
        DataError: labels or pseudo masks are missing.
    """
    supervised, consistency = output.logits.split([len(choice.supervised), len(choice.consistency)], dim=1)
    losses = occupancy_losses(supervised, batch, choice, config, network)
    losses |= {"cls": losses["ce"].new_zeros(()), "cons": losses["ce"].new_zeros(())}
    if output.pixel_features is not None:
        summed, losses["cls"] = _mask_loss(output, batch, config)
        losses["cls_sum"] = summed.detach()
    if len(output.logits) > 1:
        losses["cons"] = consistency_loss(precise(consistency).softmax(-1), config.tau_cons)
    if output.pixels is not None:
        losses |= pixel_losses(output.pixels, batch)
    losses["total"] = (
        config.lambda_ce * losses["ce"]
        + config.lambda_lovasz * losses["lovasz"]
        + config.lambda_cls * losses["cls"]
        + config.lambda_cons * losses["cons"]
    )
    losses["total"] = add_scene_losses(losses["total"], losses, config)
    for name, weight in (("pixels", config.lambda_pixels), ("depth", config.lambda_depth)):
        if name in losses:
            losses["total"] = losses["total"] + weight * losses[name]
    if output.auxiliary:
        losses["auxiliary"] = _auxiliary(output, batch, choice, config, network)
        losses["total"] = losses["total"] + config.lambda_auxiliary * losses["auxiliary"]
    return losses


def _auxiliary(
    output: NetworkOutput, batch: Batch, choice: VoxelChoice, config: LossConfig, network: NetworkConfig | None
) -> Float[Tensor, ""]:
    """Weighted losses of the supervised voxels by the logits of earlier layers, summed over these."""
    count = len(choice.supervised)
    parts = [
        weigh(occupancy_losses(logits[None, :count], batch, choice, config, network), config)
        for logits in output.auxiliary
    ]
    return torch.stack(parts).sum()


def _mask_loss(output: NetworkOutput, batch: Batch, config: LossConfig) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    if output.pixel_features is None or output.pixel_seen is None or output.pixel_stride is None:
        raise ValueError("a network that gives pixel_features also gives pixel_seen and pixel_stride")
    if batch.segment_id is None:
        raise DataError(f"samples {batch.tokens} have no pseudo masks; run `protoocc masks` and pack again")
    grid = (output.pixel_features.shape[2], output.pixel_features.shape[3])
    segments = cell_segments(batch.segment_id.flatten(0, 1), grid, output.pixel_stride)
    features, seen = precise(output.pixel_features).flatten(2, 3), output.pixel_seen.flatten(2, 3)
    parts = [
        contrastive_loss(*sample, temperature=config.tau_cls)
        for sample in zip(features, seen, segments.flatten(1).unflatten(0, seen.shape[:2]), strict=True)
    ]
    return mean([summed for summed, _ in parts]), mean([mean for _, mean in parts])
