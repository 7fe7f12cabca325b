"""Complete training settings: the paper's networks on Occ3D-nuScenes and one for a laptop CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protoocc import model
from protoocc.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from protoocc.losses.config import LossConfig
from protoocc.model.config import ModelConfig

DEMO_CLASS_WEIGHTS: Final = (4.0, 3.0, 4.0, 3.0, 2.5, 3.5, 4.0, 3.5, 6.0, 3.5, 2.5, 1.0, 3.0, 1.5, 1.5, 2.0, 2.0, 1.0)
"""Rare things count more, the road as much as free space: higher weights find more things and invent still more."""


def demo() -> TrainConfig:
    """A small network from scratch for the generated world: minutes on two CPU cores."""
    return TrainConfig(
        model=model.demo(),
        loss=LossConfig(
            lambda_lovasz=10.0,
            lambda_cls=1.0,
            lambda_cons=10.0,
            class_weights=DEMO_CLASS_WEIGHTS,
            supervised_voxels=20_000,
            consistency_voxels=10_000,
        ),
        optimizer=OptimizerConfig(lr=2e-3, backbone_lr_factor=1.0),
        schedule=ScheduleConfig(steps=800, warmup_steps=15),
        data=DataConfig(batch_size=1),
        checkpoint_every=100,
    )


def published(network: ModelConfig) -> TrainConfig:
    """Settings of section 4.1 for one of the paper's networks: 12 epochs, 8 samples a step."""
    return TrainConfig(
        model=network,
        loss=LossConfig(),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(epochs=12),
        data=DataConfig(batch_size=8, workers=8),
    )


PRESETS: Final[dict[str, Callable[[], TrainConfig]]] = {
    "demo": demo,
    "protoocc-base": lambda: published(model.protoocc_base()),
    "protoocc-small": lambda: published(model.protoocc_small()),
    "protoocc-tiny": lambda: published(model.protoocc_tiny()),
    "panoocc-base": lambda: published(model.panoocc_base()),
    "panoocc-small": lambda: published(model.panoocc_small()),
    "panoocc-small-dfa3d": lambda: published(model.panoocc_small_dfa3d()),
    "panoocc-tiny": lambda: published(model.panoocc_tiny()),
    "bevformer-base": lambda: published(model.bevformer_base()),
    "bevformer-small": lambda: published(model.bevformer_small()),
    "bevformer-tiny": lambda: published(model.bevformer_tiny()),
}
"""Presets by the name that the command line takes."""
