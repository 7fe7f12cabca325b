"""Whether a configuration fits the shards, asked before any work is done."""

from __future__ import annotations

from protoocc.config import TrainConfig
from protoocc.data import ShardSet
from schemas.errors import ConfigError


def check_grid(config: TrainConfig, shards: ShardSet) -> None:
    """Compares the network's output with the labels.

    Raises:
        ConfigError: another grid or number of classes.
    """
    model, labels = config.model, shards.dataset
    if model.grid != labels.grid:
        raise ConfigError(f"the network's grid is ({model.grid}), the labels in {shards.folder} have ({labels.grid})")
    if model.num_classes != labels.classes.num_classes:
        raise ConfigError(
            f"the network has {model.num_classes} classes, {shards.folder} has {labels.classes.num_classes}"
        )


def check_training(config: TrainConfig, shards: ShardSet) -> None:
    """Compares training settings with the shards.

    Raises:
        ConfigError: another grid, no pseudo masks for the contrastive loss, or frozen stages of random weights.
    """
    check_grid(config, shards)
    if config.model.frozen_stages and config.weights is None:
        raise ConfigError(
            f"model.frozen_stages={config.model.frozen_stages} keeps random weights: start from published ones with "
            "--weights, or set model.frozen_stages=0"
        )
    if config.model.prototype_optimisation and shards.manifest.masks is None:
        raise ConfigError(
            f"{shards.folder} holds no pseudo masks, which the contrastive loss needs. Run `protoocc masks` and pack "
            "again, or set model.prototype_optimisation=false."
        )
