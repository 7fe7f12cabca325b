"""The folder of a training run: names of its files, for its writer and for programs that need no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIG: Final = "config.json"
"""All settings of the run; each checkpoint holds a copy of those it was made with."""
METRICS: Final = "metrics.jsonl"
"""One JSON object per step: `step` and the losses."""
CHECKPOINTS: Final = "checkpoints"
"""Folder of `step-<number>/`."""

ENVIRONMENT: Final = "environment.json"
"""Code, libraries and device of the last start of the run."""
EVALUATION: Final = "eval.json"
"""Last scores of the run, as `protoocc eval --json` prints them; lists and the report show them."""
PREDICTIONS: Final = "predictions.json"
"""What decided a folder of predictions, beside one folder of files for each form that was written."""
REPORT: Final = "report.html"
"""The run on one page: settings, curves, scores, pictures."""

TRAINED_ON: Final = "trained_on.json"
"""Dataset and shards folder of a run that the command line started, as a hint for `protoocc status`."""

_STEP: Final = "step-"


@dataclass(frozen=True)
class RunFolder:
    """One training run."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings of the run, JSON."""
        return self.root / CONFIG

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.root / CHECKPOINTS

    @property
    def trained_on(self) -> Path:
        """Where its shards are; absent for runs that Python started."""
        return self.root / TRAINED_ON

    def last_step(self) -> int:
        """Step of the last whole checkpoint; 0 where there is none."""
        names = [path.name.removeprefix(_STEP) for path in self.checkpoints.glob(f"{_STEP}*")]
        return max((int(name) for name in names if name.isdigit()), default=0)
