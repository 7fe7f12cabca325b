"""Which voxels a training step classifies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from protoocc.batch import Batch
from protoocc.losses.config import LossConfig
from schemas.classes import ClassTable
from schemas.errors import DataError


@dataclass(frozen=True)
class VoxelChoice:
    """Voxels of a training step, as positions in the flattened (B, X, Y, Z) volume.

    Attributes:
        supervised: observed voxels with a known class, for cross entropy and Lovasz.
        consistency: voxels for equation (5), observed or not.
    """

    supervised: Int64[Tensor, " s"]
    consistency: Int64[Tensor, " c"]

    @property
    def all(self) -> Int64[Tensor, " n"]:
        """Supervised voxels followed by those for consistency: what the network classifies."""
        return torch.cat([self.supervised, self.consistency])


def observed(batch: Batch, classes: ClassTable) -> Bool[Tensor, "B X Y Z"]:
    """Voxels that a camera observes and whose class is known.

    Raises:
        DataError: the batch carries no labels.
    """
    if batch.semantics is None or batch.mask_camera is None:
        raise DataError(f"samples {batch.tokens} have no semantics or mask_camera; train on shards packed with labels")
    return batch.mask_camera & (batch.semantics != classes.ignored)


def choose_voxels(
    batch: Batch, config: LossConfig, classes: ClassTable, generator: torch.Generator | None = None
) -> VoxelChoice:
    """Draws the voxels of one step.

    Args:
        batch: with labels.
        config: sizes of the subsets; without them every voxel is taken and nothing is drawn.
        classes: table of the labels, which says what is unknown.
        generator: source of randomness on the CPU.
    """
    seen = observed(batch, classes)
    supervised = seen.flatten().nonzero().squeeze(1)
    if config.supervised_voxels is not None and config.supervised_voxels < len(supervised):
        order = torch.randperm(len(supervised), generator=generator)[: config.supervised_voxels]
        supervised = supervised[order.to(supervised.device)]
    total = math.prod(seen.shape)
    if config.consistency_voxels is None or config.consistency_voxels >= total:
        consistency = torch.arange(total)
    else:
        consistency = torch.randint(total, (config.consistency_voxels,), generator=generator)
    return VoxelChoice(supervised, consistency.to(supervised.device))
