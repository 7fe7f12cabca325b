"""What would make a training run pointless, asked before it starts."""

from __future__ import annotations

import logging
from pathlib import Path

from protoocc.compatibility import check_training
from protoocc.config import TrainConfig
from protoocc.data import EpochSampler, ShardDataset, open_shards
from protoocc.inference import reader_for
from protoocc.optimizer import count_steps, length_at
from protoocc.ranks import Ranks
from schemas.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def check_run(config: TrainConfig, shards: Path, ranks: Ranks) -> None:
    """Everything that can be refused before a run folder is touched.

    Raises:
        ConfigError: settings do not fit the shards or the number of processes, or warm-up takes the whole run.
        DataError: shards are missing or damaged, or no voxel of the split is seen and labelled.
    """
    split = open_shards(shards, config.data.split)
    config = config.model_copy(update={"classes": split.dataset.classes})
    check_training(config, split)
    check_warm_up(config, len(split.samples))
    make_sampler(config, len(split.samples), ranks)
    dataset = reader_for(config.model, split)
    try:
        check_labels_are_seen(dataset)
        if (missing := describe_missing_earlier(dataset)) is not None:
            logger.warning(missing)
    finally:
        dataset.close()


def make_sampler(config: TrainConfig, samples: int, ranks: Ranks) -> EpochSampler:
    """The order of samples of this process.

    Raises:
        ConfigError: processes and parts cannot share a batch equally.
    """
    data = config.data
    return EpochSampler(
        samples,
        data.batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.size,
        parts=data.accumulate,
    )


def check_warm_up(config: TrainConfig, samples: int) -> None:
    """Refuses a run that ends before its learning rate has risen.

    Raises:
        ConfigError: the warm-up is longer than the run; says both and what to set.
    """
    steps, warmup = length_at(0, count_steps(config, samples), config.schedule), config.schedule.warmup_steps
    if warmup > steps:
        raise ConfigError(
            f"the warm-up of {warmup} steps is longer than the run of {steps} steps ({samples} samples in batches of "
            f"{config.data.batch_size}): the learning rate would never reach {config.optimizer.lr:g}. Pass --set "
            f"schedule.warmup_steps={steps // 10}, or train longer"
        )


def check_labels_are_seen(dataset: ShardDataset) -> None:
    """Looks for a voxel that a camera observes and whose class is known; most splits have one in their first sample.

    Raises:
        DataError: no sample of the split has one, so there is nothing to learn.
    """
    unknown, classes, split = 0, dataset.shards.dataset.classes, dataset.shards.split
    for index in range(len(dataset)):
        labels = dataset.occupancy(index)
        known = labels["semantics"] != classes.ignored
        if (known & (labels["mask_camera"] != 0)).any():
            return
        unknown += not known.any()
    raise DataError(
        f"{dataset.shards.folder}, split '{split}': none of its {len(dataset)} samples has a voxel that a camera "
        f"observes and whose class is known ({unknown} samples without a known class, {len(dataset) - unknown} "
        "without an observed one); there is nothing to learn. Make the labels again with `protoocc occupancy "
        "--overwrite`, then `protoocc pack --overwrite`"
    )


def describe_missing_earlier(dataset: ShardDataset) -> str | None:
    """Tells how many earlier keyframes that the network reads the split leaves out; None where none is missing."""
    missing, wanted = dataset.missing_earlier()
    if missing == 0:
        return None
    steps = ", ".join(map(str, dataset.steps))
    return (
        f"{dataset.shards.folder}, split '{dataset.shards.split}': {missing} of {wanted} earlier keyframes "
        f"({100 * missing / wanted:.0f} %) that the network reads ({steps} before each) are not in the split; the "
        "nearest later one takes their place, without motion. A split with `every: N` keeps only every N-th: pack all "
        "keyframes, or set model.frame_interval to a multiple of N"
    )
