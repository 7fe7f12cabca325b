"""What is done, half done, outdated or missing in the work folder of a dataset, and the command that comes next.

Reads plans, markers, manifests and the configuration of runs as plain JSON: no array is opened, no network is built.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.files import folder_bytes
from pipelines.lineage import find_stale
from pipelines.manifests import command_of, content_of, planned_command, read_marker, read_values
from schemas.datasets import DatasetSpec, Format
from schemas.errors import DataError
from schemas.runs import CONFIG, RunFolder
from schemas.settings import describe_validation
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST, PLAN, UNITS, StageManifest, WorkFolder

State = Literal["done", "partial", "outdated", "missing"]
Model = TypeVar("Model", bound=BaseModel)

AGAIN: Final = "Run its stage again with --overwrite."


@dataclass(frozen=True)
class Usual:
    """What comes first on raw data of a format: further options of `pack`, and the preset of a small network."""

    pack: str
    preset: str


USUAL: Final[dict[Format, Usual]] = {
    "nuscenes": Usual("", "demo"),
    "semantickitti": Usual(" --depth", "voxformer-demo"),
}


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage folder or training run."""

    stage: str
    folder: Path
    state: State
    """`outdated`: finished, but from inputs that have changed since."""
    done: int = 0
    """Finished samples; steps for a run."""
    total: int | None = None
    """Samples or steps when finished; None where nobody knows before the stage has planned."""
    dropped: int = 0
    num_bytes: int = 0
    detail: str = ""
    next_command: str = ""
    """What to run for this row: empty for a finished stage, how to score it for a finished run."""


def stage_rows(
    work: Path,
    dataset_name: str,
    runs: Sequence[Path] = (Path("runs"),),
    all_names: Sequence[str] = (),
    dataset: DatasetSpec | None = None,
) -> list[StageRow]:
    """State of every stage of a dataset, in the order of the pipeline, then its training runs.

    Args:
        work: work folder of the dataset.
        dataset_name: its entry in `datasets.yaml`, for the commands.
        runs: folders of training runs at any depth. A run belongs to the dataset that its `trained_on.json` names;
            without that file, `<dataset>-<preset>` directly below one of these folders does.
        all_names: all entries of `datasets.yaml`: `mini-large-demo` is a run of `mini-large`, where there is one.
        dataset: the entry itself; stages that were made from other fields of it are outdated.

    Raises:
        DataError: a marker, manifest or configuration is no JSON or lacks a field.
    """
    name = shlex.quote(dataset_name)
    folder, option = WorkFolder(work), f"--dataset {name}"
    _row = partial(_stage_row, folder, dataset)
    records = _row("records", folder.records, f"protoocc prepare {name}", None)
    total = records.done + records.dropped if records.state == "done" else None
    rows = [
        records,
        _row("geometry", folder.geometry, f"protoocc prepare {name}", total),
        _row("occupancy", folder.occupancy, f"protoocc occupancy {option}", total),
    ]
    generators = folder.generators() or ["seeds"]
    for generator in generators:
        command = f"protoocc masks --generator {generator} {option}"
        rows.append(_row(f"masks-{generator}", folder.masks(generator), command, total))
    finished = [name for name in generators if (folder.masks(name) / MANIFEST).is_file()]
    known = finished or generators
    chosen = "seeds" if "seeds" in known else known[0]
    usual = USUAL[dataset.format if dataset is not None else "nuscenes"]
    rows.append(_row("shards", folder.shards, f"protoocc pack --masks {chosen}{usual.pack} {option}", None))
    return rows + (
        list(_run_rows(folder, dataset_name, runs, all_names)) or [_no_run(dataset_name, runs, usual.preset)]
    )


def next_command(rows: Sequence[StageRow]) -> str:
    """Command of the first row that is not done; when all are, of the last run.

    One mask generator is enough: what another one has begun is not asked for.
    """
    has_masks = any(_is_masks(row) and row.state == "done" for row in rows)
    needed = [row for row in rows if not (has_masks and _is_masks(row) and row.state in ("missing", "partial"))]
    return next((row.next_command for row in needed if row.state != "done"), rows[-1].next_command)


def _is_masks(row: StageRow) -> bool:
    return row.stage.startswith("masks-")


def _stage_row(
    work: WorkFolder, dataset: DatasetSpec | None, stage: str, folder: Path, command: str, total: int | None
) -> StageRow:
    if (folder / MANIFEST).is_file():
        return _finished(work, dataset, stage, folder, command)
    if not (folder / PLAN).is_file():
        size = folder_bytes(folder)
        return StageRow(stage=stage, folder=folder, state="missing", num_bytes=size, next_command=command)
    names = sorted(path.stem for path in (folder / UNITS).glob("*.json"))
    markers = [marker for name in names if (marker := read_marker(folder, name))]
    command = planned_command(folder) or command
    return StageRow(
        stage=stage,
        folder=folder,
        state="partial",
        done=sum(marker.done for marker in markers),
        total=total,
        dropped=sum(len(marker.dropped) for marker in markers),
        num_bytes=folder_bytes(folder),
        detail=f"{len(markers)} units",
        next_command=command,
    )


def _finished(work: WorkFolder, dataset: DatasetSpec | None, stage: str, folder: Path, command: str) -> StageRow:
    manifest = _parse(folder / MANIFEST, StageManifest)
    reason = _outdated(work, folder, manifest, dataset)
    command = command_of(folder, manifest) or command
    return StageRow(
        stage=stage,
        folder=folder,
        state="outdated" if reason else "done",
        done=manifest.done,
        total=manifest.done + len(manifest.dropped),
        dropped=len(manifest.dropped),
        num_bytes=manifest.num_bytes or folder_bytes(folder),
        detail=reason,
        next_command=f"{command} --overwrite" if reason else "",
    )


def _outdated(work: WorkFolder, folder: Path, manifest: StageManifest, dataset: DatasetSpec | None) -> str:
    """Why a finished stage has to run again; empty when it need not."""
    if manifest.format_version != FORMAT_VERSION:
        return f"format {manifest.format_version}, this program reads {FORMAT_VERSION}"
    sources = work.inputs(manifest.config.get("masks"))
    for name, fingerprint in manifest.inputs.items():
        if name in sources:
            source = sources[name] / MANIFEST
            if not source.is_file() or content_of(_parse(source, StageManifest)) != fingerprint:
                return f"{name} changed since"
    stale = find_stale(folder, dataset, files=False) if dataset is not None else iter(())
    return next((reason.reason for reason in stale if reason.folder == folder), "")


def _run_rows(
    work: WorkFolder, dataset_name: str, runs: Sequence[Path], all_names: Sequence[str]
) -> Iterator[StageRow]:
    longer = tuple(f"{name}-" for name in all_names if name.startswith(f"{dataset_name}-"))
    folders = {folder.root.resolve(): folder for parent in runs for folder in _find_runs(parent)}
    for folder in folders.values():
        trained_on = read_values(folder.trained_on, AGAIN) if folder.trained_on.is_file() else {}
        name = folder.root.name
        by_name = folder.root.parent in runs and name.startswith(f"{dataset_name}-") and not name.startswith(longer)
        if trained_on.get("dataset") == dataset_name or (not trained_on and by_name):
            yield _run(work, folder, dataset_name, trained_on.get("shards"))


def _no_run(dataset_name: str, runs: Sequence[Path], preset: str) -> StageRow:
    command = f"protoocc train --preset {preset} --dataset {shlex.quote(dataset_name)}"
    return StageRow(stage="run", folder=runs[0] / f"{dataset_name}-{preset}", state="missing", next_command=command)


def _find_runs(parent: Path) -> Iterator[RunFolder]:
    """Folders that hold a run's configuration, not those inside of them."""
    for path, folders, files in os.walk(parent):
        folders.sort()
        if CONFIG in files:
            folders.clear()
            yield RunFolder(Path(path))


def _run(work: WorkFolder, folder: RunFolder, dataset_name: str, shards: str | None) -> StageRow:
    total, done = _steps(work, read_values(folder.config, AGAIN)), folder.last_step()
    is_done = done > 0 if total is None else done >= total
    is_elsewhere = shards is not None and Path(shards) != work.shards.absolute()
    data = f"--shards {shlex.quote(str(shards))}" if is_elsewhere else f"--dataset {shlex.quote(dataset_name)}"
    options = f"{data} --run {shlex.quote(str(folder.root))}"
    return StageRow(
        stage=f"run {folder.root.name.removeprefix(f'{dataset_name}-')}",
        folder=folder.root,
        state="done" if is_done else "partial",
        done=done,
        total=total,
        num_bytes=folder_bytes(folder.root),
        detail="steps",
        next_command=f"protoocc eval {options}" if is_done else f"protoocc train {options} --resume",
    )


def _steps(work: WorkFolder, config: Mapping[str, Any]) -> int | None:
    """Steps of a run when finished; None where it counts epochs and the shards are not there."""
    schedule, data = config.get("schedule", {}), config.get("data", {})
    if schedule.get("epochs") is None:
        steps: int | None = schedule.get("steps")
        return steps
    manifest = work.shards / MANIFEST
    if not manifest.is_file():
        return None
    shards = read_values(manifest, AGAIN).get("shardlist", [])
    samples = sum(shard["nsamples"] for shard in shards if shard["split"] == data.get("split", "train"))
    return math.ceil(schedule["epochs"] * samples / data.get("batch_size", 1))


def _parse(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(read_values(path, AGAIN))
    except ValidationError as error:
        raise DataError(f"{describe_validation(f'{path} is damaged', error)}\n{AGAIN}") from error
