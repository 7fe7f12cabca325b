"""The stage contract: plan, skip what is done, map with Dask, mark each unit, manifest last.

A stage folder holds its data, `plan.json` (configuration, the dataset's fields and input fingerprints), `units/<unit>.
json` (one marker per finished unit, written after the unit's bytes) and `manifest.json` (written last: readers refuse a
folder without it). A killed run is simply run again: finished units are skipped and the bytes are those of an
uninterrupted run. Before anything else, everything that the stage reads is checked (`pipelines.lineage`).
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipelines.cluster import Site
from pipelines.files import folder_bytes, remove_partials, sha256_of, write_json
from pipelines.lineage import Origin, changed_raw, changes, check_origin, dataset_part, relative_stores
from pipelines.manifests import fingerprint, marker_path, read_manifest, read_marker, read_plan
from pipelines.raw_files import changed_files, stamp_files
from pipelines.scheduler import Scheduler, run_tasks
from pipelines.stage_folder import COMPARED, StageFolder
from pipelines.unit_files import UnitTask, Work, lost_files, row_digests, write_checksums
from pipelines.units import Layout, Piece, Unit, UnitReport, scene_units, units_of
from schemas.errors import ConfigError, DataError, StageError, WriteError
from schemas.lock import folder_lock
from schemas.settings import flatten
from schemas.store import FORMAT_VERSION
from schemas.workfolder import CHECKSUMS, MANIFEST, PLAN, UNITS, PlanFile, StageManifest, StagePlan, UnitMarker

__all__ = [
    "Layout",
    "OnError",
    "Origin",
    "Piece",
    "Runtime",
    "Stage",
    "StageSummary",
    "Unit",
    "UnitReport",
    "fingerprint",
    "read_manifest",
    "run_stage",
    "scene_units",
    "units_of",
]

logger = logging.getLogger(__name__)

OnError = Literal["fail", "drop"]


@dataclass(frozen=True)
class Runtime:
    """How a stage runs; nothing here changes its bytes, except what ``on_error`` drops."""

    scheduler: Scheduler = field(default_factory=Scheduler)
    overwrite: bool = False
    """Make a finished stage again; the old one stays until the new one is whole."""
    on_error: OnError = "fail"
    check_inputs: bool = False
    """Compare the contents of all raw files with what was read, not only size and time."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with finished and total samples."""
    on_note: Callable[[str], None] = lambda text: None
    """Called with a line for the user while the stage runs, such as the address of the dashboard."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, ready to run on a folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    """Settings that decide the bytes, JSON-able."""
    inputs: Mapping[str, str]
    """Fingerprints of what the stage reads beside the stores of ``origin``, such as a checkpoint."""
    units: Sequence[Unit]
    work: Work
    """Top-level function or partial of one: writes the unit's own region below a folder and reports. Bad samples raise
    `DataError`."""
    create: Callable[[Path], None] = lambda folder: None
    """Makes empty arrays before the first unit runs."""
    finish: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    """Writes what needs all units, before the manifest; returns further entries of the manifest."""
    layout: Layout = field(default_factory=Layout)
    """Its files."""
    origin: Origin | None = None
    """The dataset and the stores that it reads."""


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

    With ``overwrite`` a finished stage is made again beside the old one and takes its place at the end.

    Raises:
        ConfigError: the folder was made with another configuration or from something else (names the field or file),
            holds foreign files, or another process writes it.
        DataError: a stage that it reads is not finished or damaged, or the folder cannot be written.
        StageError: units failed (names them), or every sample was dropped.
    """
    started = time.monotonic()
    if stage.origin is not None:
        check_origin(stage.origin, deep=runtime.check_inputs)
    plan = _plan(stage)
    if not runtime.overwrite and _is_whole(stage, plan, runtime):
        return _summary(stage, read_manifest(stage.folder), started, skipped=True)
    with folder_lock(stage.folder):
        place = StageFolder(stage.folder, stage.layout.patterns, [unit.name for unit in stage.units])
        place.recover()
        manifest = _make(stage, plan, place, runtime)
    logger.info("%s: %d samples, %d dropped", stage.name, manifest.done, len(manifest.dropped))
    return _summary(stage, manifest, started, skipped=False)


def _make(stage: Stage, plan: PlanFile, place: StageFolder, runtime: Runtime) -> StageManifest:
    """Starts, continues, repairs or replaces the folder, whichever its state asks for.

    A first run that fails before any unit has finished leaves no folder. A folder in which a killed one has finished
    none is made anew with another plan.
    """
    folder = place.folder
    if not (folder / PLAN).is_file() and not (folder / MANIFEST).is_file():
        place.refuse_any()
        place.start(plan, stage.create)
        try:
            return _fill(stage, plan, folder, runtime, retry_dropped=True)
        except Exception:
            if not _has_units(folder):
                place.give_up()
            raise
    is_finished = (folder / MANIFEST).is_file()
    if (runtime.overwrite or not (is_finished or _has_units(folder))) and (is_finished or not place.has_plan(plan)):
        place.refuse_foreign()
        place.prepare_new(plan, stage.create)
        manifest = _fill(stage, plan, place.new, runtime, retry_dropped=True)
        place.exchange()
        return manifest
    _check_plan(stage, plan)
    _require_created(stage)
    (folder / MANIFEST).unlink(missing_ok=True)
    return _fill(stage, plan, folder, runtime, retry_dropped=not is_finished)


def _has_units(folder: Path) -> bool:
    return any((folder / UNITS).glob("*.json"))


def _is_whole(stage: Stage, plan: PlanFile, runtime: Runtime) -> bool:
    """Whether the stage has finished and all of its files are still there.

    Raises:
        ConfigError: it was made with another configuration or from something else.
        DataError: its plan or manifest is damaged, or a file is gone that only --overwrite can make again.
    """
    if not (stage.folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(stage.folder)
    _check_plan(stage, plan)
    root = stage.origin.dataset.root if stage.origin else None
    changed = changed_raw(stage.folder, root, deep=runtime.check_inputs)
    if changed:
        _refuse(stage, [f"  {change}" for change in changed])
    _require_created(stage)
    gone = [name for name in manifest.files if not (stage.folder / name).is_file()]
    if gone and not stage.layout.keeps_units:
        raise DataError(f"{stage.folder / gone[0]} is gone. {_again(stage)}.")
    return not gone and not (stage.layout.keeps_units and any(_is_lost(stage, unit) for unit in stage.units))


def _require_created(stage: Stage) -> None:
    """Refuses a folder that lacks what only its first moments make."""
    gone = [name for name in stage.layout.created if not (stage.folder / name).is_file()]
    if gone:
        raise DataError(f"{stage.folder / gone[0]} is gone. {_again(stage)}.")


def _is_lost(stage: Stage, unit: Unit) -> bool:
    marker = read_marker(stage.folder, unit.name)
    return marker is None or bool(lost_files(stage.folder, marker.wrote))


def _plan(stage: Stage) -> PlanFile:
    origin = stage.origin
    stores = origin.stores if origin else {}
    return PlanFile(
        stage=stage.name,
        format_version=FORMAT_VERSION,
        config=json.loads(json.dumps(dict(stage.config))),
        dataset=dataset_part(origin.dataset, origin.fields) if origin else {},
        inputs={**stage.inputs, **{name: fingerprint(folder) for name, folder in stores.items()}},
        stores=relative_stores(stage.folder, stores),
        command=origin.command if origin else "",
        units=tuple(unit.name for unit in stage.units),
        read=stamp_files(origin.dataset.root, origin.read) if origin else {},
    )


def _check_plan(stage: Stage, plan: PlanFile) -> None:
    """Refuses to continue what was made with another configuration or from something else."""
    old = flatten(read_plan(stage.folder).model_dump(include=set(COMPARED)))
    new = flatten(plan.model_dump(include=set(COMPARED)))
    lines = [f"  {name}: {change}" for name, change in changes(old, new)]
    if lines:
        _refuse(stage, lines)


def _refuse(stage: Stage, lines: Sequence[str]) -> None:
    raise ConfigError(
        f"{stage.folder} was made with another configuration or input:\n"
        + "\n".join(lines[:5])
        + (f"\n  and {len(lines) - 5} more" if len(lines) > 5 else "")
        + f"\n{_again(stage)} to make it anew, or use another --out."
    )


def _again(stage: Stage) -> str:
    command = stage.origin.command.replace("{folder}", shlex.quote(str(stage.folder))) if stage.origin else ""
    return "Run again with --overwrite" + (f" (`{command} --overwrite`)" if command else "")


def _fill(stage: Stage, plan: PlanFile, folder: Path, runtime: Runtime, *, retry_dropped: bool) -> StageManifest:
    """Does the open units of a folder and finishes it."""
    remove_partials(folder)
    retry_dropped = retry_dropped and (runtime.overwrite or runtime.on_error == "fail")
    todo = [unit for unit in stage.units if _is_open(stage, unit, folder, retry_dropped=retry_dropped)]
    _run_units(stage, todo, folder, runtime)
    return _finish(stage, plan, folder)


def _is_open(stage: Stage, unit: Unit, folder: Path, *, retry_dropped: bool) -> bool:
    """Whether a unit has to be done: never finished, its files are gone, or a raw file of it is another one now."""
    marker = read_marker(folder, unit.name)
    if marker is None or (retry_dropped and marker.dropped):
        return True
    root = stage.origin.dataset.root if stage.origin else None
    return bool(lost_files(folder, marker.wrote)) or any(changed_files(root, marker.read, deep=False))


def _run_units(stage: Stage, todo: Sequence[Unit], folder: Path, runtime: Runtime) -> None:
    total = sum(unit.size for unit in stage.units)
    finished = total - sum(unit.size for unit in todo)
    runtime.on_progress(finished, total)
    root = stage.origin.dataset.root if stage.origin else None
    task = UnitTask(stage.work, folder, stage.layout, root)
    site = partial(Site.here, stage.folder, root)
    failures: list[str] = []
    with closing(run_tasks(task, todo, runtime.scheduler, site, runtime.on_note)) as outcomes:
        for unit, outcome in outcomes:
            if isinstance(outcome, WriteError):
                raise outcome
            if isinstance(outcome, (DataError, ConfigError)):
                failures.append(f"{unit.name}: {outcome}")
            elif isinstance(outcome, StageError):
                raise StageError(f"{stage.name}, {outcome}") from outcome
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                write_json(marker_path(folder, unit.name), outcome.model_dump(mode="json"))
            finished += unit.size
            runtime.on_progress(finished, total)
    if failures:
        shown = "\n".join(f"  {failure}" for failure in sorted(failures)[:5])
        raise StageError(
            f"{stage.name}: {len(failures)} of {len(stage.units)} units failed:\n{shown}\n"
            "Correct the data and run again (finished units are kept), or leave them out with --on-error drop."
        )


def _finish(stage: Stage, plan: PlanFile, folder: Path) -> StageManifest:
    """Adds up the markers and writes checksums and manifest."""
    done, dropped, counts, digests = 0, dict[str, str](), Counter[str](), bytearray()
    for unit in stage.units:
        marker = _marker(folder, unit)
        done += marker.done
        dropped |= marker.dropped
        counts.update(marker.counts)
        digests += row_digests(stage.layout, unit, marker) if stage.layout.has_rows else b""
    if done == 0:
        raise StageError(
            f"{stage.name}: every sample was dropped; first reason: {next(iter(dropped.values()), 'none')}\n"
            "Correct the data and run again with --overwrite."
        )
    own = stage.finish(folder)
    if stage.layout.has_rows:
        write_checksums(folder, bytes(digests))
    files = {name: sha256_of([folder / name]) for name in _joined(stage.layout, folder)}
    figures = {"done": done, "dropped": dropped, "counts": dict(counts), "files": files}
    figures["num_bytes"] = folder_bytes(folder)
    fields = plan.model_dump(mode="json", include=set(StagePlan.model_fields))
    manifest = StageManifest.model_validate({**fields, **own, **figures})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _marker(folder: Path, unit: Unit) -> UnitMarker:
    marker = read_marker(folder, unit.name)
    if marker is None:
        raise DataError(f"{marker_path(folder, unit.name)} is gone or damaged; run again to make unit {unit.name} anew")
    return marker


def _joined(layout: Layout, folder: Path) -> list[str]:
    patterns = (*layout.created, *layout.joined, *([CHECKSUMS] if layout.has_rows else []))
    return sorted(path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern))


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
