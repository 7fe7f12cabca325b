"""The folder of one training run: configuration, metrics and what may continue there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from torch.utils.tensorboard import SummaryWriter

from protoocc.config import TrainConfig, changed_fields
from schemas.errors import ConfigError, disk_errors
from schemas.files import write_bytes
from schemas.lock import lock_path
from schemas.outside import Source, parse_json, read_bytes, read_lines
from schemas.outside.limits import JSON_BYTES, META_BYTES
from schemas.runs import CONFIG, METRICS

TENSORBOARD: Final = "tensorboard"

FREE_TO_CHANGE = ("data.workers", "checkpoint_every", "weights.file", "image_shape")
"""Fields that a resumed run may change, because they do not change its numbers."""


def open_run(out: Path, config: TrainConfig, *, resume: bool) -> None:
    """Claims a run folder and stores the full configuration there.

    Args:
        out: the folder; made when absent.
        config: of this run.
        resume: continue the run that is there, if any.

    Raises:
        ConfigError: the folder holds another run, or the same one and ``resume`` is off, or foreign files.
        DataError: the folder cannot be written, or its configuration is damaged.
    """
    path = out / CONFIG
    if path.is_file():
        _check_same(path, config, resume=resume)
    elif foreign := [entry.name for entry in out.glob("*") if entry != lock_path(out)]:
        name = min(foreign)
        raise ConfigError(f"{out} holds '{name}' and no {CONFIG}: it is no run. Choose another folder.")
    write_bytes(path, f"{config.model_dump_json(indent=1)}\n".encode())


def _check_same(path: Path, config: TrainConfig, *, resume: bool) -> None:
    source = Source(str(path), "Choose another folder.")
    stored = parse_json(source, read_bytes(source, path, JSON_BYTES))
    with suppress(ValidationError):  # fields of a later version count with their defaults
        stored = TrainConfig.model_validate(stored).model_dump(mode="json")
    changed = changed_fields(stored, config.model_dump(mode="json"))
    if resume:
        changed = [line for line in changed if not line.startswith(tuple(f"{name}:" for name in FREE_TO_CHANGE))]
    if changed:
        lines = "\n".join(f"  {line}" for line in changed[:5])
        raise ConfigError(f"{path.parent} holds a run with another configuration:\n{lines}\nChoose another folder.")
    if not resume:
        raise ConfigError(f"{path.parent} holds this run already. Continue it with --resume or choose another folder.")


class RunLog:
    """`metrics.jsonl` and TensorBoard: one line and one set of scalars per step."""

    def __init__(self, out: Path, *, first_step: int) -> None:
        """Drops what a killed run logged at ``first_step`` and later, because it is computed again."""
        self.path = out / METRICS
        rows = [row for row in read_metrics(out) if row["step"] < first_step]
        write_bytes(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = self.path.open("a")
        with disk_errors(out / TENSORBOARD):
            self._board = SummaryWriter(str(out / TENSORBOARD), purge_step=first_step)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends the numbers of one step.

        Raises:
            DataError: the disk is full.
        """
        with disk_errors(self.path):
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
        with disk_errors(self.path.parent / TENSORBOARD):
            for name, value in numbers.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Closes both files.

        Raises:
            DataError: the disk is full, so that the last lines are lost.
        """
        with disk_errors(self.path.parent / TENSORBOARD):
            self._file.close()
            self._board.close()


def read_metrics(out: Path) -> list[dict[str, int | float]]:
    """Rows of `metrics.jsonl`, in order of steps; a line that a kill cut off is left out.

    Raises:
        DataError: another line is no object of numbers with a `step`.
    """
    path = out / METRICS
    if not path.is_file():
        return []
    remedy = "Remove the line; the checkpoints do not depend on it."
    rows = []
    for number, line in enumerate(read_lines(Source(str(path), remedy), path, META_BYTES), start=1):
        if line.endswith(b"}\n"):
            source = Source(f"{path}, line {number}", remedy)
            row = parse_json(source, line)
            if type(row.get("step")) is not int or not all(type(value) in (int, float) for value in row.values()):
                raise source.damaged("expected `step` and numbers")
            rows.append(row)
    return rows
