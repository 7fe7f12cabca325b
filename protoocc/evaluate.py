"""Scores of a checkpoint on a split, beside what one gets without looking at an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field

from protoocc.baselines import all_free, frequent_class
from protoocc.checkpoint import find_checkpoint, load_network
from protoocc.compatibility import check_shards
from protoocc.data import ShardDataset, open_shards
from protoocc.inference import default_device, predict
from protoocc.metrics import AbsentRule, Confusion, Scores
from protoocc.version import code_version
from schemas.settings import Frozen


class EvalRow(Frozen):
    """Scores of one predictor, shares 0..1; null where the score does not exist (absent class)."""

    name: str = Field(description="`model`, `frequent_class` or `all_free`.")
    miou: float | None = Field(description="Mean IoU over the scored classes that are present.")
    iou: float | None = Field(description="Occupied against free.")
    things_iou: float | None = Field(description="Classes that are neither ground nor free, against all else.")
    ground_iou: float | None = Field(description="Classes of the ground, against all else.")
    classes: dict[str, float | None] = Field(description="IoU by class name, without the free one.")


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


def score(
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
        ConfigError: its grid or class table is not that of the shards.
        DataError: shards are missing or damaged, or hold no such split.
    """
    network, config = load_network(checkpoint)
    evaluated = open_shards(shards, split)
    voting = open_shards(shards, config.data.split)
    check_shards(config, evaluated)
    network = network.to(device or default_device())
    classes = evaluated.dataset.classes
    total = len(voting.samples) + len(evaluated.samples)
    frequent = frequent_class(ShardDataset(voting), lambda done, _: on_progress(done, total))
    confusions = {name: Confusion(classes) for name in ("model", "frequent_class", "all_free")}
    fixed = {"frequent_class": frequent, "all_free": all_free(evaluated.dataset.grid.shape, classes)}
    for done, (keyframe, prediction) in enumerate(predict(network, evaluated), start=1):
        for name, confusion in confusions.items():
            confusion.add(fixed.get(name, prediction), keyframe.semantics, keyframe.mask_camera != 0)
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
        rows=tuple(_row(name, confusion.scores(absent)) for name, confusion in confusions.items()),
    )


def _row(name: str, scores: Scores) -> EvalRow:
    shares = {label: _number(share) for label, share in scores.classes.items()}
    return EvalRow(
        name=name,
        miou=_number(scores.miou),
        iou=_number(scores.iou),
        things_iou=_number(scores.things_iou),
        ground_iou=_number(scores.ground_iou),
        classes=shares,
    )


def _number(share: float) -> float | None:
    return None if math.isnan(share) else share
