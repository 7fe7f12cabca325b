"""The folder of one training run: configuration, metrics and what may continue there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from torch.utils.tensorboard import SummaryWriter

from protoocc.checkpoint import check_version, read_config
from protoocc.config import TrainConfig, changed_fields
from protoocc.data import open_shards
from protoocc.environment import write_environment
from protoocc.optimizer import count_steps
from protoocc.run_rows import read_metrics
from protoocc.training_report import SCORES
from schemas.errors import ConfigError, disk_errors
from schemas.files import write_bytes
from schemas.lock import lock_path
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.runs import CONFIG, METRICS, RunFolder

TENSORBOARD: Final = "tensorboard"

FREE_TO_CHANGE = ("data.workers", "checkpoint_every", "keep_last", "model.recompute", "weights.file", "image_shape")
"""Fields that a resumed run may change, because they do not change its numbers."""


_LENGTH = ("schedule.steps", "schedule.epochs", "schedule.extended")
"""Fields that only `prolong` changes."""


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
        check_same(path, config, resume=resume)
    elif foreign := [entry.name for entry in out.glob("*") if entry != lock_path(out)]:
        name = min(foreign)
        raise ConfigError(f"{out} holds '{name}' and no {CONFIG}: it is no run. Choose another folder.")
    write_bytes(path, f"{config.model_dump_json(indent=1)}\n".encode())


def check_same(path: Path, config: TrainConfig, *, resume: bool) -> None:
    """Refuses to go on in the folder of a run with other settings.

    Args:
        path: the stored configuration.
        config: what is to be trained there.
        resume: whether the same run may go on.

    Raises:
        ConfigError: the stored settings are others, or the same and ``resume`` is off.
        DataError: the stored configuration is damaged.
    """
    source = Source(str(path), "Choose another folder.")
    stored = parse_json(source, read_bytes(source, path, JSON_BYTES))
    check_version(path, stored)
    with suppress(ValidationError):  # fields of a later version count with their defaults
        stored = TrainConfig.model_validate(stored).model_dump(mode="json")
    changed = changed_fields(stored, config.model_dump(mode="json"))
    if resume:
        free = (*FREE_TO_CHANGE, *_LENGTH) if _is_prolonged(stored, config) else FREE_TO_CHANGE
        changed = [line for line in changed if not line.startswith(tuple(f"{name}:" for name in free))]
    if changed:
        lines = "\n".join(f"  {line}" for line in changed[:5])
        raise ConfigError(f"{path.parent} holds a run with another configuration:\n{lines}\nChoose another folder.")
    if not resume:
        raise ConfigError(f"{path.parent} holds this run already. Continue it with --resume or choose another folder.")


def _is_prolonged(stored: dict[str, Any], config: TrainConfig) -> bool:
    """Whether a configuration goes on where the stored one, plain values that may be damaged, is over (`prolong`)."""
    schedule, now = stored.get("schedule"), list(config.schedule.extended)
    if not isinstance(schedule, dict) or not now:
        return False
    return schedule.get("extended", []) == now[:-1] and schedule.get("steps") in (None, now[-1])


def prolong(out: Path, extra: int, shards: Path) -> TrainConfig:
    """Settings that continue a finished run by more steps, to be trained with ``resume``.

    The run remembers the lengths it had. The learning rate follows the cosine of the new length from the first further
    step on: it rises to what a run of that length would have there.

    Args:
        out: the run folder.
        extra: further steps.
        shards: what it was trained on.

    Raises:
        ConfigError: no run there, or it is not finished.
        CheckpointError: its configuration is damaged.
        DataError: the shards are missing or damaged.
    """
    if not (out / CONFIG).is_file():
        raise ConfigError(f"{out} holds no run that could be prolonged (no {CONFIG}). Train first.")
    config = read_config(out / CONFIG)
    samples = len(open_shards(shards, config.data.split).samples)
    length, done = count_steps(config, samples), RunFolder(out).last_step()
    if done < length:
        raise ConfigError(f"{out} has {done} of its {length} steps; finish it with --resume before it is prolonged")
    schedule = config.schedule
    changes = {"steps": length + extra, "epochs": None, "extended": (*schedule.extended, length)}
    return config.model_copy(update={"schedule": schedule.model_copy(update=changes)})


class RunLog:
    """`metrics.jsonl` and TensorBoard: one line and one set of scalars per step."""

    def __init__(self, out: Path, *, first_step: int) -> None:
        """Drops what a killed run logged at ``first_step`` and later, because it is computed again.

        Also stores what this start of the run computes on.
        """
        write_environment(out)
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
                is_score = name.startswith(SCORES)
                tag = f"val/{name.removeprefix(SCORES)}" if is_score else f"train/{name}"
                self._board.add_scalar(tag, value, step)

    def close(self) -> None:
        """Closes both files.

        Raises:
            DataError: the disk is full, so that the last lines are lost.
        """
        with disk_errors(self.path.parent / TENSORBOARD):
            self._file.close()
            self._board.close()
