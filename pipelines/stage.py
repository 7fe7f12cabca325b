"""The stage contract: plan, skip what is done, map with Dask, mark each unit, manifest last.

A stage folder holds its data, `plan.json` (configuration and input fingerprints), `units/<unit>.json` (one marker per
finished unit, written after the unit's bytes) and `manifest.json` (written last: readers refuse a folder without it).
A killed run is simply run again: finished units are skipped and the bytes are those of an uninterrupted run.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipelines.files import folder_bytes, remove_partials, sha256_of, write_json
from pipelines.scheduler import Scheduler, run_tasks
from schemas.errors import ConfigError, DataError, StageError
from schemas.names import file_key
from schemas.records import RecordEntry
from schemas.settings import describe_validation, flatten
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST, PLAN, UNITS, StageManifest, StagePlan

logger = logging.getLogger(__name__)

OnError = Literal["fail", "drop"]


@dataclass(frozen=True)
class Unit:
    """A share of the work that one task does and marks as done; it carries all that its task needs of the plan."""

    name: str
    size: int
    """Number of samples."""
    entries: tuple[RecordEntry, ...] = ()
    """The records to read; empty for stages that come before records."""


@dataclass(frozen=True)
class UnitReport:
    """What a task returns: never arrays, only what the summary and the manifest need."""

    done: int
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Token of each dropped sample and why."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Figures that are added up over all units, such as labelled voxels by source."""


@dataclass(frozen=True)
class Runtime:
    """How a stage runs; nothing here changes its bytes, except what ``on_error`` drops."""

    scheduler: Scheduler = field(default_factory=Scheduler)
    overwrite: bool = False
    on_error: OnError = "fail"
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with finished and total samples."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, ready to run on a folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    """Everything that decides the bytes, JSON-able."""
    inputs: Mapping[str, str]
    """Fingerprints of what the stage reads: name -> sha256 of that stage's manifest or of raw tables."""
    units: Sequence[Unit]
    work: Callable[[Unit], UnitReport]
    """Top-level function or partial of one: writes the unit's own region and reports. Bad samples raise `DataError`."""
    create: Callable[[Path], None] = lambda folder: None
    """Makes empty arrays before the first unit runs."""
    finish: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    """Writes what needs all units, before the manifest; returns further entries of the manifest."""


@dataclass(frozen=True)
class StageSummary:
    """Figures for the end of a run."""

    name: str
    folder: Path
    done: int
    dropped: Mapping[str, str]
    counts: Mapping[str, float]
    seconds: float
    num_bytes: int
    """Of all files but the manifest."""
    skipped: bool
    """The stage had been finished before; nothing was done."""


def run_stage(stage: Stage, runtime: Runtime) -> StageSummary:
    """Runs a stage to its manifest, or raises and leaves what a rerun can continue.

    Raises:
        ConfigError: the folder was made with another configuration or other inputs (names the field).
        StageError: units failed (names them), or every sample was dropped.
    """
    started = time.monotonic()
    if runtime.overwrite and stage.folder.exists():
        _refuse_foreign(stage.folder)
        shutil.rmtree(stage.folder)
    plan = _plan(stage, runtime)
    _check_plan(stage, plan)
    if (stage.folder / MANIFEST).is_file():
        return _summary(stage, read_manifest(stage.folder), started, skipped=True)
    if (stage.folder / PLAN).is_file():
        remove_partials(stage.folder)
    else:
        if stage.folder.exists():
            shutil.rmtree(stage.folder)
        stage.create(stage.folder)
        write_json(stage.folder / PLAN, plan.model_dump())
    _run_units(stage, runtime)
    manifest = _finish(stage, plan)
    logger.info("%s: %d samples, %d dropped", stage.name, manifest.done, len(manifest.dropped))
    return _summary(stage, manifest, started, skipped=False)


def _finish(stage: Stage, plan: StagePlan) -> StageManifest:
    """Adds up the markers and writes the manifest."""
    done, dropped, counts = 0, dict[str, str](), Counter[str]()
    for unit in stage.units:
        report = json.loads(_marker(stage, unit).read_text())
        done += report["done"]
        dropped |= report["dropped"]
        counts.update(report["counts"])
    if done == 0:
        raise StageError(
            f"{stage.name}: every sample was dropped; first reason: {next(iter(dropped.values()), 'none')}\n"
            "Correct the data and run again with --overwrite."
        )
    own = stage.finish(stage.folder)
    figures = {"done": done, "dropped": dropped, "counts": dict(counts), "num_bytes": folder_bytes(stage.folder)}
    manifest = StageManifest.model_validate({**plan.model_dump(), **own, **figures})
    write_json(stage.folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def read_manifest(folder: Path) -> StageManifest:
    """Manifest of a finished stage folder; entries of its own stage are in `model_extra`.

    Raises:
        DataError: the stage has not finished, its manifest is damaged, or its format version is not this program's.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder} is not finished (no {MANIFEST}). Run the stage that makes it first.") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Run the stage again with --overwrite.") from error
    if isinstance(values, dict) and values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {values['format_version']}, this program reads {FORMAT_VERSION}. "
            "Run the stage again with --overwrite."
        )
    try:
        return StageManifest.model_validate(values)
    except ValidationError as error:
        message = describe_validation(f"{path} is damaged", error)
        raise DataError(f"{message}\nRun the stage again with --overwrite.") from error


def fingerprint(folder: Path) -> str:
    """SHA-256 of the manifest of a finished stage, for the plans of stages that read it.

    Raises:
        DataError: as `read_manifest`.
    """
    read_manifest(folder)
    return sha256_of([folder / MANIFEST])


def units_of(entries: Sequence[RecordEntry], size: int) -> list[Unit]:
    """Units of ``size`` records each, in order; the last one may be smaller."""
    parts = [tuple(entries[start : start + size]) for start in range(0, len(entries), size)]
    return [Unit(f"part-{number:05d}", len(part), part) for number, part in enumerate(parts)]


def scene_units(entries: Sequence[RecordEntry]) -> list[Unit]:
    """One unit per scene; entries of a scene stand next to each other."""
    scenes = [(scene, tuple(members)) for scene, members in groupby(entries, key=lambda entry: entry.scene)]
    return [Unit(file_key(scene), len(members), members) for scene, members in scenes]


def _plan(stage: Stage, runtime: Runtime) -> StagePlan:
    return StagePlan(
        stage=stage.name,
        format_version=FORMAT_VERSION,
        config=json.loads(json.dumps(dict(stage.config))),
        inputs=dict(stage.inputs),
        on_error=runtime.on_error,
    )


def _check_plan(stage: Stage, plan: StagePlan) -> None:
    path = stage.folder / PLAN
    if not path.is_file():
        if stage.folder.exists():
            _refuse_foreign(stage.folder)
        return
    try:
        old = flatten(json.loads(path.read_bytes()))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Run the stage again with --overwrite.") from error
    new = flatten(plan.model_dump())
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        lines = [f"  {key}: was {old.get(key)!r}, now {new.get(key)!r}" for key in changed[:5]]
        raise ConfigError(
            f"{stage.folder} was made with another configuration or input:\n"
            + "\n".join(lines)
            + "\nRun again with --overwrite to start afresh, or use another --out."
        )


def _refuse_foreign(folder: Path) -> None:
    known = {"zarr.json", UNITS, PLAN}
    names = {entry.name for entry in folder.iterdir()}
    if names and not names & known:
        raise ConfigError(f"{folder} exists and was not made by this stage (holds {min(names)}). Choose another --out.")


def _marker(stage: Stage, unit: Unit) -> Path:
    return stage.folder / UNITS / f"{unit.name}.json"


def _mark(stage: Stage, unit: Unit, report: UnitReport) -> None:
    values = {"done": report.done, "dropped": dict(report.dropped), "counts": dict(report.counts)}
    write_json(_marker(stage, unit), values)


def _run_units(stage: Stage, runtime: Runtime) -> None:
    total = sum(unit.size for unit in stage.units)
    todo = [unit for unit in stage.units if not _marker(stage, unit).is_file()]
    finished = total - sum(unit.size for unit in todo)
    runtime.on_progress(finished, total)
    failures: list[str] = []
    with closing(run_tasks(stage.work, todo, runtime.scheduler)) as outcomes:
        for unit, outcome in outcomes:
            if isinstance(outcome, (DataError, ConfigError)):
                failures.append(f"{unit.name}: {outcome}")
            elif isinstance(outcome, StageError):
                raise StageError(f"{stage.name}, {outcome}") from outcome
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                _mark(stage, unit, outcome)
            finished += unit.size
            runtime.on_progress(finished, total)
    if failures:
        shown = "\n".join(f"  {failure}" for failure in sorted(failures)[:5])
        raise StageError(
            f"{stage.name}: {len(failures)} of {len(stage.units)} units failed:\n{shown}\n"
            "Correct the data and run again (finished units are kept), or leave them out with "
            "--on-error drop --overwrite."
        )


def _summary(stage: Stage, manifest: StageManifest, started: float, *, skipped: bool) -> StageSummary:
    return StageSummary(
        name=stage.name,
        folder=stage.folder,
        done=manifest.done,
        dropped=manifest.dropped,
        counts=manifest.counts,
        seconds=time.monotonic() - started,
        num_bytes=manifest.num_bytes,
        skipped=skipped,
    )
