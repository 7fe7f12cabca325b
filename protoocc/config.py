"""Settings of a training run: one complete, frozen description that is stored beside its results."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from protoocc.augment.config import AnyAugment, AugmentConfig
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
    eps: float = Field(1e-8, gt=0, description="What AdamW adds to the root of the second moment.")
    clip_norm: float = Field(35.0, gt=0, description="Gradients are scaled down to this L2 norm.")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the old average of the weights that a step keeps, such as 0.999; the average is scored "
        "and stored in place of the weights. null: no average.",
    )


class ScheduleConfig(Frozen):
    """Linear warm-up, then cosine decay or drops to a tenth."""

    steps: int | None = Field(None, ge=1, description="Optimiser steps; either this or `epochs`.")
    epochs: int | None = Field(None, ge=1, description="Passes over the training split; either this or `steps`.")
    warmup_steps: int = Field(500, ge=0, description="Steps from near zero up to `lr`.")
    final_lr_factor: float = Field(1e-3, ge=0, le=1, description="Share of `lr` at the last step.")
    drops: tuple[float, ...] = Field(
        (), description="Shares of the run after which the rate falls to a tenth, such as 0.8; empty: cosine decay."
    )
    extended: tuple[int, ...] = Field(
        (), description="Steps after which the run was over and then prolonged; `protoocc train --extend` fills it in."
    )

    @model_validator(mode="after")
    def _one_length(self) -> ScheduleConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and set the other one to null")
        if not all(0 < share < 1 for share in self.drops):
            raise ValueError(f"drops {self.drops} are shares of the run, each above 0 and below 1")
        lengths = [0, *self.extended, *([] if self.steps is None else [self.steps])]
        if self.extended and (self.steps is None or lengths != sorted(set(lengths))):
            raise ValueError("extended holds rising numbers of steps, all below steps")
        return self


class DataConfig(Frozen):
    """How samples are read."""

    split: str = Field("train", description="Split of the shards that is trained on.")
    batch_size: int = Field(1, ge=1, description="Samples per optimiser step, over all processes.")
    accumulate: int = Field(
        1, ge=1, description="Equal parts that a process computes one after the other, to need less memory."
    )
    workers: int = Field(0, ge=0, description="Processes that read ahead; 0 reads in the training process.")
    augment: AnyAugment = Field(
        AugmentConfig(), description="Random changes of training samples; `host` for those of PanoOcc, `off` for none."
    )


class ValidationConfig(Frozen):
    """Scores during training."""

    every: int | None = Field(None, ge=1, description="Steps between validations; the last step has one. null: none.")
    samples: int = Field(50, ge=1, description="Samples that are scored, spread evenly over the split.")
    split: str = Field("val", description="Split of the shards that is scored.")


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
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Arithmetic of products and convolutions; float16 scales its losses."
    )
    compile: bool = Field(False, description="Compile the network first: minutes at the start, faster steps on a GPU.")
    weights: WeightsConfig | None = Field(None, description="Weights at the start; null for random ones.")
    validation: ValidationConfig = Field(ValidationConfig(), description="Scores during training.")
    checkpoint_every: int = Field(1000, ge=1, description="Steps between checkpoints; the last step always has one.")
    keep_last: int = Field(2, ge=1, description="Last checkpoints that stay, beside the best by validation.")
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
