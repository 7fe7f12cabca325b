"""What a training run tells: after each step, and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMES = ("seconds", "data_seconds", "memory_gb")
"""Columns of `metrics.jsonl` that the machine decides; all others are the same after a kill."""
NO_LOSS = ("step", "lr", "gradient_norm", "loss_scale", "skipped", *TIMES)
"""Columns of `metrics.jsonl` that are no losses."""
_SUMS = ("total", "cls_sum")
SCORES = "val_"
"""Start of the names of columns that validation adds to the row of its step."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        step: number of finished steps, 1..steps.
        steps: length of the run.
        lr: learning rate.
        losses: `ce`, `lovasz`, `cls`, `cons`, `total`, ... and `gradient_norm`, by name.
        seconds: wall time of the step with its reading.
        data_seconds: the part of it that was spent waiting for samples.
        memory_gb: most memory that the process has held so far, of the GPU where one computes; 1e9 bytes.
        scores: of the validation after this step, `miou`, `iou`, ..., shares 0..1; empty without one.
    """

    step: int
    steps: int
    lr: float
    losses: Mapping[str, float]
    seconds: float
    data_seconds: float
    memory_gb: float
    scores: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """The step's line of `metrics.jsonl`, without its number."""
        times = {name: getattr(self, name) for name in TIMES}
        return {"lr": self.lr, **self.losses, **times, **{f"{SCORES}{name}": v for name, v in self.scores.items()}}


@dataclass(frozen=True)
class TrainSummary:
    """Figures for the end of a run.

    Attributes:
        checkpoint: the last checkpoint.
        steps: finished optimiser steps.
        samples: samples of the training split.
        seconds: wall time of this call.
        first: mean of each loss over the first tenth of the steps.
        last: mean of each loss over the last tenth.
        best: the best checkpoint by validation, None where nothing was validated.
        best_miou: its mIoU on the validated samples, 0..1.
    """

    checkpoint: Path
    steps: int
    samples: int
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]
    best: Path | None = None
    best_miou: float | None = None


def mean_losses(rows: Sequence[Mapping[str, int | float]]) -> dict[str, float]:
    """Mean of each loss over rows of `metrics.jsonl`."""
    names = [name for name in (rows[0] if rows else {}) if name not in NO_LOSS and not name.startswith(SCORES)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def losses_at_work(losses: Mapping[str, float]) -> list[str]:
    """Names of the single losses that are not zero, as those are that a configuration or a network leaves out."""
    return [name for name, value in losses.items() if name not in (*NO_LOSS, *_SUMS) and value != 0]
