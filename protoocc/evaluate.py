"""Scores of a checkpoint on a split, beside what one gets without looking at an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import Field

from protoocc.baselines import all_free, frequent_class
from protoocc.checkpoint import find_checkpoint, load_model
from protoocc.compatibility import check_grid
from protoocc.data import ShardDataset, open_shards
from protoocc.inference import default_device, predict_split
from protoocc.metrics import AbsentRule, Confusion, Scores
from protoocc.version import code_version
from schemas.settings import Frozen


class EvalRow(Frozen):
    """Scores of one predictor, shares 0..1; null where the score does not exist (absent class)."""

    name: str = Field(description="`model`, `frequent_class` or `all_free`.")
    miou: float | None = Field(description="Mean IoU over the present classes 0..16.")
    iou: float | None = Field(description="Occupied against free.")
    classes: dict[str, float | None] = Field(description="IoU by class name, without `free`.")


class EvalReport(Frozen):
    """A table of scores and everything one must know to read it."""

    dataset: str = Field(description="Packed entry of datasets.yaml.")
    split: str = Field(description="Evaluated split.")
    samples: int = Field(description="Number of evaluated samples.")
    voxels: int = Field(description="Number of scored voxels.")
    mask: str = Field("camera", description="Scored voxels: those with mask_camera.")
    absent: AbsentRule = Field(description="Which classes the mean leaves out.")
    baseline_split: str = Field(description="Split whose labels voted for `frequent_class`.")
    checkpoint: str = Field(description="Run and step, such as runs/a/checkpoints/step-000100.")
    code_version: str = Field(description="Release and commit of the program.")
    rows: tuple[EvalRow, ...] = Field(description="Model first, then the baselines.")

    def row(self, name: str) -> EvalRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def evaluate(
    checkpoint: Path,
    shards: Path,
    split: str,
    *,
    absent: AbsentRule = "original",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | None = None,
) -> EvalReport:
    """Scores a checkpoint and both baselines on the same voxels.

    Args:
        checkpoint: a checkpoint or a run folder (its last one).
        shards: folder of `protoocc pack`; must also hold the split that the checkpoint was trained on.
        split: what to evaluate.
        absent: which classes the mean leaves out.
        on_progress: called with finished and total samples; reading the training labels counts as well.
        device: where to compute; a GPU if there is one.

    Raises:
        CheckpointError: unreadable or inconsistent checkpoint.
        ConfigError: its grid or classes are not those of the shards.
        DataError: shards are missing or damaged, or hold no such split.
    """
    model, config = load_model(checkpoint)
    evaluated = open_shards(shards, split)
    voting = open_shards(shards, config.data.split)
    check_grid(config, evaluated)
    model = model.to(device or default_device())
    total = len(voting.samples) + len(evaluated.samples)
    frequent = frequent_class(ShardDataset(voting), lambda done, _: on_progress(done, total))
    confusions = {name: Confusion() for name in ("model", "frequent_class", "all_free")}
    fixed = {"frequent_class": frequent, "all_free": all_free(evaluated.dataset.grid.shape)}
    read = ShardDataset(evaluated, frames=config.model.frames, interval=config.model.frame_interval)
    for done, (keyframe, prediction) in enumerate(predict_split(model, read), start=1):
        for name, confusion in confusions.items():
            guess: UInt8[np.ndarray, "X Y Z"] = fixed.get(name, prediction)
            confusion.add(guess, keyframe.semantics, keyframe.mask_camera != 0)
        on_progress(len(voting.samples) + done, total)
    return EvalReport(
        dataset=evaluated.dataset.name,
        split=split,
        samples=len(evaluated.samples),
        voxels=int(confusions["model"].counts.sum()),
        absent=absent,
        baseline_split=voting.split,
        checkpoint=str(find_checkpoint(checkpoint)),
        code_version=code_version(),
        rows=tuple(
            _row(name, confusion.scores(absent), evaluated.dataset.classes.occupied)
            for name, confusion in confusions.items()
        ),
    )


def _row(name: str, scores: Scores, class_names: tuple[str, ...]) -> EvalRow:
    shares = {label: _number(share) for label, share in zip(class_names, scores.classes, strict=True)}
    return EvalRow(name=name, miou=_number(scores.miou), iou=_number(scores.iou), classes=shares)


def _number(share: float) -> float | None:
    return None if math.isnan(share) else share
