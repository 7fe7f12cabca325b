"""Settings of a training run: one complete, frozen description that is stored beside its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protoocc.losses.config import LossConfig
from protoocc.model.config import ModelConfig
from schemas.datasets import describe_validation
from schemas.errors import ConfigError

WeightsFormat = Literal["torchvision", "panoocc", "fcos3d"]
"""Whose names a file of published weights has."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(_Frozen):
    """AdamW. Norms, biases and embeddings carry no weight decay."""

    lr: float = Field(2e-4, gt=0, description="Learning rate at the top of the schedule.")
    backbone_lr_factor: float = Field(0.1, ge=0, description="Share of `lr` for the residual network; 1 from scratch.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    clip_norm: float = Field(35.0, gt=0, description="Gradients are scaled down to this L2 norm.")


class ScheduleConfig(_Frozen):
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


class DataConfig(_Frozen):
    """How samples are read."""

    split: str = Field("train", description="Split of the shards that is trained on.")
    batch_size: int = Field(1, ge=1, description="Samples per optimiser step.")
    workers: int = Field(0, ge=0, description="Processes that read ahead; 0 reads in the training process.")


class WeightsConfig(_Frozen):
    """Published weights that a run starts from; `protoocc train --weights` fills it in."""

    file: str = Field(description="Path of the file.")
    sha256: str = Field(description="Digest of the file, which must not change.")
    format: WeightsFormat = Field(description="Whose names it has.")
    least_share: float | None = Field(
        None, ge=0, le=1, description="Least share of each promised part that it must fill; null for the format's own."
    )


class TrainConfig(_Frozen):
    """Everything that decides a training run, except the shards."""

    model: ModelConfig = Field(description="The network.")
    loss: LossConfig = Field(description="The objective.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW.")
    schedule: ScheduleConfig = Field(description="Length and learning rate.")
    data: DataConfig = Field(DataConfig(), description="Reading.")
    seed: int = Field(0, ge=0, description="Decides weights, order of samples, dropout and noise.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Arithmetic of products and convolutions.")
    weights: WeightsConfig | None = Field(None, description="Weights at the start; null for random ones.")
    checkpoint_every: int = Field(1000, ge=1, description="Steps between checkpoints; the last step always has one.")


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """The same settings with some fields changed, as `--set path=value` asks.

    Args:
        config: a complete configuration, such as a preset.
        assignments: `path=value`; the path has dots, the value is JSON or, failing that, a plain word.

    Raises:
        ConfigError: no such field (names the known ones), or a value that the field does not take.
    """
    values = config.model_dump(mode="json")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected path=value, such as optimizer.lr=1e-3")
        _assign(values, path, _value(text))
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_validation("--set", error)) from error


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`path: was X, now Y` for each field that differs between two dumped configurations."""
    before, after = _flat(old), _flat(new)
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f"{path}: was {json.dumps(before.get(path))}, now {json.dumps(after.get(path))}" for path in paths]


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    node: Any = values
    for depth, part in enumerate([*parents, name]):
        if not isinstance(node, dict) or part not in node:
            known = ", ".join(node) if isinstance(node, dict) else "none, it is a single value"
            where = ".".join([*parents, name][:depth]) or "the configuration"
            raise ConfigError(f"--set {path}: unknown field '{part}'; known fields of {where}: {known}")
        if depth == len(parents):
            node[part] = value
        node = node[part]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{name}" if prefix else name))
    return flat
