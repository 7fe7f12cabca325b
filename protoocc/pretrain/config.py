"""Settings of a pretraining run of image features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from protoocc.config import AnyNetwork, OptimizerConfig, ScheduleConfig
from protoocc.model.image_config import ImageConfig
from protoocc.presets import read_preset
from schemas.errors import ConfigError
from schemas.settings import Frozen, override


class PretrainConfig(Frozen):
    """Everything that decides a pretraining run, except the image targets."""

    model: AnyNetwork = Field(description="The network whose image features are trained.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(lr=2e-3, backbone_lr_factor=1.0), description="AdamW.")
    schedule: ScheduleConfig = Field(ScheduleConfig(steps=3000, warmup_steps=100), description="Length and rate.")
    batch_size: int = Field(4, ge=1, description="Keyframes per step, with all their cameras.")
    workers: int = Field(0, ge=0, description="Processes that read ahead; 0 reads in the training process.")
    lambda_classes: float = Field(1.0, ge=0, description="Weight of the cross entropy of classes.")
    lambda_depth: float = Field(1.0, ge=0, description="Weight of the cross entropy of bins of depth.")
    class_balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Power of a class's rarity that weighs it: 0 counts pixels, 1 counts classes alike.",
    )
    flip: bool = Field(True, description="Mirror half of the images.")
    colour: float = Field(0.2, ge=0, lt=1, description="Largest random change of each colour's strength, as a share.")
    seed: int = Field(0, ge=0, description="Decides weights, order of samples and changes of images.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Arithmetic of convolutions.")
    half: bool = Field(True, description="Store the weights in 16 bits.")
    checkpoint_every: int = Field(500, ge=1, description="Steps after which the run could go on if it were killed.")


def pretrain_preset(name: str, changes: Sequence[str] = ()) -> PretrainConfig:
    """Settings for the image features of a preset, with some fields changed.

    Args:
        name: key of `protoocc.presets.PRESETS`.
        changes: `path=value`, such as `schedule.steps=500`.

    Raises:
        ConfigError: no such preset or field, a wrong value, a length in epochs, or a network that reads its images
            otherwise.
    """
    model = read_preset(name).model.model_copy(update={"frozen_stages": 0, "frozen_norms": False})
    config = override(PretrainConfig(model=model), changes)
    if not isinstance(config.model, ImageConfig):
        raise ConfigError(f"a network of kind '{config.model.kind}' has no image features that could be pretrained")
    if config.schedule.steps is None:
        raise ConfigError("pretraining counts steps: set schedule.steps, and schedule.epochs=null")
    return config
