"""Scores of a checkpoint, or of anybody's predictions, on a split, beside what one gets without looking at an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch

from protoocc.checkpoint import find_checkpoint, load_network
from protoocc.compatibility import check_shards
from protoocc.data import open_shards
from protoocc.eval_report import EvalReport, EvalRow
from protoocc.inference import default_device, predict
from protoocc.scoring import EvalConfig, Progress, Scoring, Tallies, Volume, add_up
from protoocc.tally import Truth
from schemas.errors import DataError
from schemas.shards import SampleEntry

__all__ = ["EvalConfig", "EvalReport", "EvalRow", "Predictions", "score", "score_predictions"]

BASELINE_SPLIT: Final = "train"
"""Its labels vote for `frequent_class` beside files of predictions, which do not say what they were trained on."""
_DEFAULT: Final = EvalConfig()


@runtime_checkable
class Predictions(Protocol):
    """Predictions of a split that lie in files."""

    @property
    def folder(self) -> Path:
        """Where they lie, for the report."""

    def read(self, sample: SampleEntry) -> Volume:
        """Class of each voxel of a sample in the table of the shards; its unknown label counts as free."""


def score(
    checkpoint: Path,
    shards: Path,
    split: str,
    config: EvalConfig = _DEFAULT,
    *,
    on_progress: Progress = lambda done, total: None,
    device: torch.device | None = None,
) -> EvalReport:
    """Scores a checkpoint and both baselines on the same voxels and rays.

    Args:
        checkpoint: a checkpoint or a run folder (its last one).
        shards: folder of `protoocc pack`; must also hold the split that the checkpoint was trained on.
        split: what to evaluate.
        config: how to score.
        on_progress: called with finished and total samples; reading the training labels counts as well.
        device: where to compute; a GPU if there is one.

    Raises:
        CheckpointError: unreadable or inconsistent checkpoint.
        ConfigError: its grid or class table is not that of the shards.
        DataError: shards are missing or damaged, or hold no such split.
    """
    network, trained = load_network(checkpoint)
    evaluated, voted = open_shards(shards, split), open_shards(shards, trained.data.split)
    check_shards(trained, evaluated)
    network = network.to(device or default_device())
    scoring = Scoring.of(evaluated, voted, config, on_progress)

    def jobs() -> Iterator[Callable[[], Tallies]]:
        for index, (keyframe, volume) in enumerate(predict(network, evaluated)):
            truth = Truth(keyframe.semantics, keyframe.mask_camera != 0, keyframe.mask_lidar != 0)
            yield partial(scoring.count, "model", index, truth, volume)

    counted = add_up(jobs(), config.workers, _behind(len(voted.samples), len(evaluated.samples), on_progress))
    about = {"checkpoint": str(find_checkpoint(checkpoint)), "frames": trained.model.frames}
    return scoring.report(counted, config.absent).model_copy(update=about)


def score_predictions(
    predictions: Predictions,
    shards: Path,
    split: str,
    config: EvalConfig = _DEFAULT,
    *,
    on_progress: Progress = lambda done, total: None,
) -> EvalReport:
    """Scores files of predictions as `score` does a checkpoint.

    Args:
        predictions: one for each sample of the split.
        shards: folder of `protoocc pack`.
        split: what to evaluate.
        config: how to score.
        on_progress: called with finished and total samples; reading the training labels counts as well.

    Raises:
        DataError: shards or a file are missing or damaged, or a file holds a class outside the table.
    """
    evaluated = open_shards(shards, split)
    has_baseline = any(shard.split == BASELINE_SPLIT for shard in evaluated.manifest.shardlist)
    voted = open_shards(shards, BASELINE_SPLIT) if has_baseline else None
    scoring = Scoring.of(evaluated, voted, config, on_progress)
    numbers = range(len(evaluated.samples))
    jobs = (partial(_count_file, scoring, predictions, number, scoring.truth(number)) for number in numbers)
    before = 0 if voted is None else len(voted.samples)
    counted = add_up(jobs, config.workers, _behind(before, len(evaluated.samples), on_progress))
    return scoring.report(counted, config.absent).model_copy(update={"predictions": str(predictions.folder)})


def _count_file(scoring: Scoring, predictions: Predictions, index: int, truth: Truth) -> Tallies:
    """Reads and counts one prediction; what it leaves unknown is free."""
    shards = scoring.dataset.shards
    sample, classes = shards.samples[index][1], shards.dataset.classes
    volume = predictions.read(sample)
    if volume.shape != shards.dataset.grid.shape:
        raise DataError(
            f"{predictions.folder}, sample {sample.token}: {volume.shape} voxels, {shards.folder} has "
            f"{shards.dataset.grid.shape}"
        )
    unknown = volume == classes.ignored
    tallies = scoring.count("predictions", index, truth, np.where(unknown, np.uint8(classes.free), volume))
    tallies["predictions"].unknown = int((unknown & (truth.semantics != classes.ignored)).sum())
    return tallies


def _behind(before: int, evaluated: int, on_progress: Progress) -> Callable[[int], None]:
    """Progress of the evaluated samples, which follow those that voted."""
    return lambda done: on_progress(before + done, before + evaluated)
