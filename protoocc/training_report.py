"""What a training run tells: after each step, and at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import StageError

TIMES = ("seconds", "data_seconds", "memory_gb")
"""Columns of `metrics.jsonl` that the machine decides; all others are the same after a kill."""
NO_LOSS = ("step", "lr", "gradient_norm", "loss_scale", "skipped", *TIMES)
"""Columns of `metrics.jsonl` that are no losses."""
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
    """

    step: int
    steps: int
    lr: float
    losses: Mapping[str, float]
    seconds: float


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
    """

    checkpoint: Path
    steps: int
    samples: int
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]


def finite_numbers(values: Mapping[str, Tensor], tokens: Sequence[str], step: int) -> dict[str, float]:
    """Losses as plain numbers.

    Args:
        values: scalars by name.
        tokens: samples of the step.
        step: number of the step, for the message.

    Raises:
        StageError: one is NaN or infinite; names it and the samples.
    """
    together = torch.stack([value.detach().float() for value in values.values()])
    numbers = dict(zip(values, together.tolist(), strict=True))
    broken = [name for name, number in numbers.items() if not math.isfinite(number)]
    if broken:
        raise StageError(
            f"step {step}: {', '.join(broken)} not finite with samples {', '.join(tokens)}. Check their calibration "
            "and labels, or lower optimizer.lr; the checkpoints so far are whole."
        )
    return numbers


def mean_losses(rows: Sequence[Mapping[str, int | float]]) -> dict[str, float]:
    """Mean of each loss over rows of `metrics.jsonl`."""
    names = [name for name in (rows[0] if rows else {}) if name not in NO_LOSS and not name.startswith(SCORES)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}
