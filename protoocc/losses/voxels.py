"""Which voxels a training step classifies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from protoocc.batch import Batch
from protoocc.draws import draw_generator
from protoocc.losses.config import LossConfig
from schemas.classes import ClassTable
from schemas.errors import DataError


@dataclass(frozen=True)
class VoxelChoice:
    """Voxels of a training step, as positions in the flattened (B, X, Y, Z) volume, sample after sample.

    Attributes:
        supervised: observed voxels with a known class, for cross entropy and Lovasz.
        weights: how many observed voxels each of them stands for.
        consistency: voxels for equation (5), observed or not.
    """

    supervised: Int64[Tensor, " s"]
    weights: Float[Tensor, " s"]
    consistency: Int64[Tensor, " c"]

    @property
    def all(self) -> Int64[Tensor, " n"]:
        """Supervised voxels followed by those for consistency: what the network classifies."""
        return torch.cat([self.supervised, self.consistency])

    def counts(self, batch: Batch) -> list[int]:
        """How many supervised voxels each sample of the batch has."""
        if batch.semantics is None:
            return []
        sample = torch.div(self.supervised, batch.semantics[0].numel(), rounding_mode="floor")
        counts: list[int] = torch.bincount(sample, minlength=len(batch.semantics)).tolist()
        return counts


def observed(batch: Batch, classes: ClassTable) -> Bool[Tensor, "B X Y Z"]:
    """Voxels that a camera observes and whose class is known.

    Raises:
        DataError: the batch carries no labels.
    """
    if batch.semantics is None or batch.mask_camera is None:
        raise DataError(f"samples {batch.tokens} have no semantics or mask_camera; train on shards packed with labels")
    return batch.mask_camera & (batch.semantics != classes.ignored)


def choose_voxels(batch: Batch, config: LossConfig, classes: ClassTable) -> VoxelChoice:
    """Draws the voxels of one step, for each sample by its own seed (`Batch.seeds`).

    Args:
        batch: with labels.
        config: sizes of the subsets; without them every voxel is taken and nothing is drawn.
        classes: table of the labels, which says what is unknown and what is free.
    """
    seen = observed(batch, classes).flatten(1)
    free = torch.zeros_like(seen) if batch.semantics is None else batch.semantics.flatten(1) == classes.free
    supervised, weights, consistency = [], [], []
    for sample, mask in enumerate(seen):
        generator = None if batch.seeds is None else draw_generator(batch.seeds[sample], "voxels")
        start = sample * len(mask)
        places, weight = _supervised(mask, free[sample], config.supervised_voxels, generator)
        supervised.append(start + places)
        weights.append(weight)
        consistency.append(start + _consistency(len(mask), config.consistency_voxels, generator))
    return VoxelChoice(torch.cat(supervised), torch.cat(weights), torch.cat(consistency).to(seen.device))


def _supervised(
    seen: Bool[Tensor, " n"], free: Bool[Tensor, " n"], number: int | None, generator: torch.Generator | None
) -> tuple[Int64[Tensor, " s"], Float[Tensor, " s"]]:
    """Observed voxels of a sample and their weights: occupied ones first, then free ones that stand for all free."""
    places = seen.nonzero().squeeze(1)
    if number is None or number >= len(places):
        return places, torch.ones(len(places), device=seen.device)
    is_free = free[places]
    occupied, empty = places[~is_free], places[is_free]
    count = min(max(number - len(occupied), math.ceil(number / 4)), len(empty))
    order = torch.randperm(len(empty), generator=generator)[:count]
    weights = torch.ones(len(occupied) + count, device=seen.device)
    weights[len(occupied) :] = len(empty) / max(count, 1)
    return torch.cat([occupied, empty[order.to(places.device)]]), weights


def _consistency(total: int, number: int | None, generator: torch.Generator | None) -> Int64[Tensor, " c"]:
    if number is None or number >= total:
        return torch.arange(total)
    return torch.randint(total, (number,), generator=generator)
