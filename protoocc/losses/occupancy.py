"""Losses of the supervised voxels: cross entropy, Lovasz and those of MonoScene, VoxFormer and Symphonies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from protoocc.batch import Batch
from protoocc.losses.affinity import geo_scal, sem_scal
from protoocc.losses.config import LossConfig
from protoocc.losses.frustum import frusta_of, frustum_loss
from protoocc.losses.lovasz import lovasz_softmax
from protoocc.losses.voxels import VoxelChoice
from protoocc.network import NetworkConfig
from schemas.errors import ConfigError, DataError


class Known(NamedTuple):
    """Supervised voxels of one sample."""

    logarithms: Float[Tensor, "views n L"]
    """Log-probabilities."""
    labels: Int64[Tensor, " n"]
    weights: Float[Tensor, " n"]
    """How many voxels each stands for."""


def occupancy_losses(
    logits: Float[Tensor, "views n L"],
    batch: Batch,
    choice: VoxelChoice,
    config: LossConfig,
    network: NetworkConfig | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Losses of the supervised voxels, means over samples, summed over the views.

    Args:
        logits: of the supervised voxels of ``choice``.
        batch: with labels; its calibration places voxels in frusta.
        choice: from `choose_voxels`.
        config: says which ones; ``ce`` and ``lovasz`` are always there.
        network: its grid and which class is free, for ``geo_scal`` and ``frustum``.

    Raises:
        DataError: labels are missing.
    """
    if batch.semantics is None:
        raise DataError(f"samples {batch.tokens} have no semantics; train on shards packed with labels")
    counts = choice.counts(batch)
    labels = batch.semantics.flatten()[choice.supervised].long().split(counts)
    logarithms = precise(logits).log_softmax(-1)
    parts = zip(logarithms.split(counts, dim=1), labels, choice.weights.split(counts), strict=True)
    samples = [Known(*part) for part in parts]
    losses = {
        "ce": mean([cross_entropy(*known, config.class_weights, config.ce_mean).sum() for known in samples]),
        "lovasz": logarithms.new_zeros(()),
    }
    if config.lambda_lovasz > 0:
        losses["lovasz"] = mean([lovasz_softmax(k.logarithms.exp(), k.labels, k.weights).sum() for k in samples])
    if config.lambda_sem_scal > 0:
        losses["sem_scal"] = mean([sem_scal(k.logarithms.exp(), k.labels, k.weights).sum() for k in samples])
    if config.lambda_geo_scal > 0:
        free = _needed(network, "lambda_geo_scal").free_class
        losses["geo_scal"] = mean([geo_scal(k.logarithms.exp(), k.labels, k.weights, free).sum() for k in samples])
    if config.lambda_frustum > 0:
        losses["frustum"] = _frustum(samples, batch, choice, _needed(network, "lambda_frustum"))
    return losses


def weigh(losses: dict[str, Float[Tensor, ""]], config: LossConfig) -> Float[Tensor, ""]:
    """Weighted sum of what `occupancy_losses` gives."""
    total = config.lambda_ce * losses["ce"] + config.lambda_lovasz * losses["lovasz"]
    return add_scene_losses(total, losses, config)


def add_scene_losses(
    total: Float[Tensor, ""], losses: dict[str, Float[Tensor, ""]], config: LossConfig
) -> Float[Tensor, ""]:
    """Adds the weighted scene losses, those that are there."""
    weights = {
        "sem_scal": config.lambda_sem_scal,
        "geo_scal": config.lambda_geo_scal,
        "frustum": config.lambda_frustum,
    }
    for name, weight in weights.items():
        if name in losses:
            total = total + weight * losses[name]
    return total


def cross_entropy(
    logarithms: Float[Tensor, "views n L"],
    labels: Int64[Tensor, " n"],
    voxel_weights: Float[Tensor, " n"],
    class_weights: Sequence[float] | None = None,
    divisor: str = "weights",
) -> Float[Tensor, " views"]:
    """L_CE of each view: mean over the voxels of -log p(label), weighted by voxel and class.

    Args:
        logarithms: log-probabilities.
        labels: class 0..L-1 of each voxel.
        voxel_weights: how many voxels each stands for.
        class_weights: L weights; None counts all classes alike.
        divisor: of the weighted sum: "weights" of the voxels and their classes, or the "voxels" alone.

    Raises:
        ConfigError: the number of weights is not the number of classes.
    """
    classes = logarithms.shape[-1]
    if class_weights is not None and len(class_weights) != classes:
        raise ConfigError(f"loss.class_weights has {len(class_weights)} entries, the network has {classes} classes")
    weights = logarithms.new_ones(classes) if class_weights is None else logarithms.new_tensor(class_weights)
    weight = weights[labels] * voxel_weights.to(weights.dtype)
    chosen = logarithms.gather(-1, labels.expand(len(logarithms), -1)[..., None]).squeeze(-1)
    whole = weight if divisor == "weights" else voxel_weights.to(weights.dtype)
    return -(chosen * weight).sum(-1) / whole.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def precise(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """What autocast left in 16 bits, in float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean(values: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Mean over the samples of a batch."""
    return torch.stack(list(values)).mean()


def _frustum(samples: Sequence[Known], batch: Batch, choice: VoxelChoice, network: NetworkConfig) -> Float[Tensor, ""]:
    volume = network.grid.shape[0] * network.grid.shape[1] * network.grid.shape[2]
    places = choice.supervised.split([len(known.labels) for known in samples])
    losses = []
    for number, (known, place) in enumerate(zip(samples, places, strict=True)):
        with torch.no_grad():
            frusta = frusta_of(place - number * volume, batch, number, network.grid)
        losses.append(frustum_loss(known.logarithms.exp(), known.labels, known.weights, frusta).sum())
    return mean(losses)


def _needed(network: NetworkConfig | None, name: str) -> NetworkConfig:
    if network is None:
        raise ValueError(f"{name} needs the network's configuration: give it to compute_losses")
    return network
