"""Complete training settings: the paper's three sizes on Occ3D-nuScenes and one for a laptop CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protoocc import model
from protoocc.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from protoocc.losses.config import LossConfig
from protoocc.model.config import ModelConfig

DEMO_CLASS_WEIGHTS: Final = (8.0, 7.0, 9.0, 5.0, 4.5, 6.5, 7.5, 6.5, 12.0, 6.5, 4.5, 2.0, 5.0, 3.0, 2.5, 2.5, 3.0, 1.0)
"""Share of each class among the observed voxels of the generated world, to the power -0.3."""


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
        schedule=ScheduleConfig(steps=400, warmup_steps=15),
        data=DataConfig(batch_size=1),
        checkpoint_every=100,
    )


def protoocc_base() -> TrainConfig:
    """ProtoOcc-Base, 100 x 100 x 16 queries, settings of section 4.1."""
    return _paper(model.protoocc_base())


def protoocc_small() -> TrainConfig:
    """ProtoOcc-Small, 50 x 50 x 16 queries, settings of section 4.1."""
    return _paper(model.protoocc_small())


def protoocc_tiny() -> TrainConfig:
    """ProtoOcc-Tiny, 50 x 50 x 4 queries, settings of section 4.1."""
    return _paper(model.protoocc_tiny())


def _paper(network: ModelConfig) -> TrainConfig:
    return TrainConfig(
        model=network,
        loss=LossConfig(),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(epochs=12),
        data=DataConfig(batch_size=8, workers=8),
    )


PRESETS: Final[dict[str, Callable[[], TrainConfig]]] = {
    "demo": demo,
    "base": protoocc_base,
    "small": protoocc_small,
    "tiny": protoocc_tiny,
}
"""Presets by the name that the command line takes."""
