"""What a run folder tells without its network: settings, how far it came, losses, best validation, time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from protoocc.run_rows import Row, read_metrics
from protoocc.run_scores import read_scores
from protoocc.training_report import SCORES, mean_losses
from schemas.errors import ConfigError
from schemas.lock import holder_of
from schemas.outside import Source, parse_json, read_bytes, shorten
from schemas.outside.limits import JSON_BYTES
from schemas.runs import CONFIG, RunFolder
from schemas.settings import flatten
from schemas.workfolder import MANIFEST

State = Literal["finished", "running", "stopped", "empty"]
"""finished: all steps are done; running: a process writes there; stopped: it can be resumed; empty: no step is done."""


_RESTORE: Final = "Restore it, or name another run."


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One training run.

    Attributes:
        folder: where it is.
        name: last part of the folder.
        dataset: entry of datasets.yaml that it was trained on; empty for runs that Python started.
        kind: network, such as `protoocc`.
        state: whether it is over.
        step: finished steps.
        steps: length; None where it counts epochs and the shards are not there.
        seconds: wall time of all finished steps, reading included.
        first: mean of each loss over the first tenth of the finished steps.
        last: mean of each loss over the last tenth.
        scores: of the best validation by mIoU, shares 0..1; empty without one.
        scores_step: its step.
        evaluated: figures of the network that `protoocc eval` kept last, shares 0..1; empty without any.
        evaluated_split: what they were scored on.
    """

    folder: Path
    name: str
    dataset: str
    kind: str
    state: State
    step: int
    steps: int | None
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]
    scores: Mapping[str, float]
    scores_step: int | None
    evaluated: Mapping[str, Any]
    evaluated_split: str
    settings: Mapping[str, Any] = field(repr=False)
    """All settings by their dotted names, as `--set` takes them."""
    rows: Sequence[Row] = field(repr=False)
    """Lines of `metrics.jsonl`."""


def read_run(folder: Path) -> RunFacts:
    """Facts of one run.

    Raises:
        ConfigError: the folder holds no run.
        DataError: one of its files is damaged.
    """
    run = RunFolder(folder)
    if not run.config.is_file():
        raise ConfigError(f"{folder} is no run: it holds no {CONFIG}. Name the folder that `protoocc train` wrote.")
    settings = _json(run.config)
    trained_on = _json(run.trained_on) if run.trained_on.is_file() else {}
    rows = read_metrics(folder)
    tenth, step = max(len(rows) // 10, 1), int(rows[-1]["step"]) if rows else 0
    steps = _steps(run.config, settings, trained_on)
    kept = read_scores(folder)
    best = max(_validated(rows), key=lambda row: (row.get(f"{SCORES}miou", -math.inf), -row["step"]), default=None)
    return RunFacts(
        folder=folder,
        name=folder.absolute().name,
        dataset=str(trained_on.get("dataset", "")),
        kind=str(_part(settings, "model").get("kind", "")),
        state=_state(folder, step, steps),
        step=step,
        steps=steps,
        seconds=math.fsum(row.get("seconds", 0.0) for row in rows),
        first=mean_losses(rows[:tenth]),
        last=mean_losses(rows[-tenth:]),
        scores=scores_of(best or {}),
        scores_step=None if best is None else int(best["step"]),
        evaluated={} if kept is None else kept.of_model(),
        evaluated_split="" if kept is None else str(kept.facts.get("split", "")),
        settings=flatten(settings),
        rows=rows,
    )


def shards_of(folder: Path) -> Path | None:
    """The shards that a run was trained on; None where Python started it, or where they are gone.

    Raises:
        DataError: the run's note of them is damaged.
    """
    run = RunFolder(folder)
    shards = _json(run.trained_on).get("shards") if run.trained_on.is_file() else None
    return Path(shards) if isinstance(shards, str) and (Path(shards) / MANIFEST).is_file() else None


def find_runs(parent: Path) -> list[Path]:
    """Run folders at any depth, in order of their paths; not those inside of others.

    Raises:
        ConfigError: no such folder.
    """
    if not parent.is_dir():
        raise ConfigError(f"{parent}: no such folder. Name a run, or a folder with runs; `protoocc train` makes one.")
    return list(_walk(parent))


def _walk(parent: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(parent):
        folders.sort()
        if CONFIG in files:
            folders.clear()
            yield Path(path)


def scores_of(row: Mapping[str, int | float]) -> dict[str, float]:
    """Scores of the validation after a step by name, shares 0..1; empty without one."""
    return {name.removeprefix(SCORES): value for name, value in row.items() if name.startswith(SCORES)}


def _validated(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if scores_of(row)]


def _state(folder: Path, step: int, steps: int | None) -> State:
    if holder_of(folder) is not None:
        return "running"
    if steps is not None and RunFolder(folder).last_step() >= steps:
        return "finished"
    return "stopped" if step else "empty"


def _steps(config: Path, settings: Mapping[str, Any], trained_on: Mapping[str, Any]) -> int | None:
    """Length of the run; epochs are counted on the shards that it was trained on, while they are there."""
    schedule, data = _part(settings, "schedule"), _part(settings, "data")
    epochs = _count(config, schedule, "epochs")
    if epochs is None:
        return _count(config, schedule, "steps")
    manifest = Path(str(trained_on.get("shards", ""))) / MANIFEST
    if not manifest.is_file():
        return None
    shards, split = _json(manifest).get("shardlist", []), data.get("split", "train")
    samples = sum(_count(manifest, shard, "nsamples") or 0 for shard in shards if shard.get("split") == split)
    return math.ceil(epochs * samples / (_count(config, data, "batch_size") or 1))


def _count(path: Path, values: Mapping[str, Any], name: str) -> int | None:
    """A positive whole number, or null.

    Raises:
        DataError: something else.
    """
    value = values.get(name)
    if value is None or (type(value) is int and value > 0):
        return value
    raise Source(str(path), _RESTORE).damaged(f"{name} is {shorten(value)}, expected a whole number")


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    source = Source(str(path), _RESTORE)
    return dict(parse_json(source, read_bytes(source, path, JSON_BYTES)))
