"""Whether a configuration fits the shards, asked before any work is done."""

from __future__ import annotations

from itertools import zip_longest

from protoocc.augment import check_augment
from protoocc.config import TrainConfig
from protoocc.data import ShardSet
from schemas.classes import ClassTable
from schemas.errors import ConfigError


def check_shards(config: TrainConfig, shards: ShardSet) -> None:
    """Compares a trained network with shards to predict, score or draw.

    Colours and groups of classes may differ: they do not change what a prediction means.

    Raises:
        ConfigError: another grid, or a class table with other names or another free class (names the difference).
    """
    _check_grid(config, shards)
    _check_depth(config, shards)
    difference = table_difference(config.classes, shards.dataset.classes)
    if difference is not None:
        raise ConfigError(
            f"the network was trained with another class table than that of {shards.folder}: {difference}. Use shards "
            "of the same `classes` in datasets.yaml, or train on these."
        )


def check_training(config: TrainConfig, shards: ShardSet) -> None:
    """Compares training settings with the shards.

    Raises:
        ConfigError: another grid, other classes, class weights of another number, flips that the grid does not allow,
            or something that the network needs and does not have.
    """
    _check_grid(config, shards)
    _check_depth(config, shards)
    check_augment(config.data.augment, shards.dataset.grid)
    model, classes = config.model, shards.dataset.classes
    if (model.num_classes, model.free_class) != (classes.num_classes, classes.free):
        raise ConfigError(
            f"the network has {model.num_classes} classes, {shards.folder} has {classes.num_classes}; free space is "
            f"class {model.free_class} of the network and {classes.free} of the shards. Train with "
            f"--set model.num_classes={classes.num_classes} --set model.free={classes.free}"
        )
    weights = config.loss.class_weights
    if weights is not None and len(weights) != classes.num_classes:
        raise ConfigError(
            f"loss.class_weights has {len(weights)} entries, {shards.folder} has {classes.num_classes} classes; give "
            "one weight for each class, or set loss.class_weights=null"
        )
    obstacles = model.obstacles(has_masks=shards.manifest.masks is not None, has_weights=config.weights is not None)
    if obstacles:
        raise ConfigError("\n".join(f"cannot train on {shards.folder}: {obstacle}" for obstacle in obstacles))


def table_difference(one: ClassTable, other: ClassTable) -> str | None:
    """The first difference in what labels of two tables mean; None where they mean the same."""
    for index, (name, other_name) in enumerate(zip_longest(one.names, other.names)):
        if name != other_name:
            return f"class {index} is {name or 'absent'} there and {other_name or 'absent'} here"
    if one.free != other.free:
        return f"free space is class {one.free} there and {other.free} here"
    return None


def _check_depth(config: TrainConfig, shards: ShardSet) -> None:
    if config.model.reads_depth and not shards.manifest.has_input_depth:
        raise ConfigError(
            f"the network reads depth and {shards.folder} holds none; pack with `protoocc pack --depth` (LiDAR) or "
            "`--depth-maps DIR` (your own), or use a network that needs none (a VoxFormer with model.proposals=all)"
        )


def _check_grid(config: TrainConfig, shards: ShardSet) -> None:
    grid, labels = config.model.grid, shards.dataset.grid
    if grid != labels:
        raise ConfigError(
            f"the network's grid is ({grid}), the labels in {shards.folder} have ({labels}). Choose a preset for this "
            "grid (SemanticKITTI's have voxformer-demo, symphonies-demo, docs/networks.md), or set model.grid"
        )
