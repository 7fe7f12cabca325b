"""Settings of a training run: one complete, frozen description that is stored beside its results."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from protoocc.hosts import read_network
from protoocc.losses.config import LossConfig
from protoocc.network import NetworkConfig
from schemas.classes import OCC3D, ClassTable
from schemas.settings import Frozen, flatten

AnyNetwork = Annotated[SerializeAsAny[NetworkConfig], BeforeValidator(read_network)]
"""Settings of any network of `protoocc.hosts.HOSTS`, told apart by ``kind``."""

WeightsFormat = Literal["torchvision", "panoocc", "fcos3d", "protoocc"]
"""Whose names a file of weights has; protoocc: of `protoocc pretrain images`."""


class OptimizerConfig(Frozen):
    """AdamW. Norms, biases and embeddings carry no weight decay."""

    lr: float = Field(2e-4, gt=0, description="Learning rate at the top of the schedule.")
    backbone_lr_factor: float = Field(0.1, ge=0, description="Share of `lr` for the residual network; 1 from scratch.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    clip_norm: float = Field(35.0, gt=0, description="Gradients are scaled down to this L2 norm.")


class ScheduleConfig(Frozen):
    """Linear warm-up, then cosine decay."""

    steps: int | None = Field(None, ge=1, description="Optimiser steps; either this or `epochs`.")
    epochs: int | None = Field(None, ge=1, description="Passes over the training split; either this or `steps`.")
    warmup_steps: int = Field(500, ge=0, description="Steps from near zero up to `lr`.")
    final_lr_factor: float = Field(1e-3, ge=0, le=1, description="Share of `lr` at the last step.")

    @model_validator(mode="after")
    def _one_length(self) -> ScheduleConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and set the other one to null")
        return self


class DataConfig(Frozen):
    """How samples are read."""

    split: str = Field("train", description="Split of the shards that is trained on.")
    batch_size: int = Field(1, ge=1, description="Samples per optimiser step.")
    workers: int = Field(0, ge=0, description="Processes that read ahead; 0 reads in the training process.")


class WeightsConfig(Frozen):
    """Published weights that a run starts from; `protoocc train --weights` fills it in."""

    file: str = Field(description="Path of the file.")
    sha256: str = Field(description="Digest of the file, which must not change.")
    format: WeightsFormat = Field(description="Whose names it has.")
    least_share: float | None = Field(
        None, ge=0, le=1, description="Least share of each promised part that it must fill; null for the format's own."
    )


class TrainConfig(Frozen):
    """Everything that decides a training run, except the shards."""

    model: AnyNetwork = Field(description="The network; its `kind` says which one.")
    loss: LossConfig = Field(description="The objective.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW.")
    schedule: ScheduleConfig = Field(description="Length and learning rate.")
    data: DataConfig = Field(DataConfig(), description="Reading.")
    seed: int = Field(0, ge=0, description="Decides weights, order of samples, dropout and noise.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Arithmetic of products and convolutions.")
    weights: WeightsConfig | None = Field(None, description="Weights at the start; null for random ones.")
    checkpoint_every: int = Field(1000, ge=1, description="Steps between checkpoints; the last step always has one.")
    classes: ClassTable = Field(
        OCC3D, description="Class table of the labels, taken from the shards when training starts."
    )
    image_shape: tuple[int, int] | None = Field(
        None, description="(H, W) of the training images, taken from the shards when training starts; null: not known."
    )


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`path: was X, now Y` for each field that differs between two dumped configurations."""
    before, after = flatten(old), flatten(new)
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f"{path}: was {json.dumps(before.get(path))}, now {json.dumps(after.get(path))}" for path in paths]
