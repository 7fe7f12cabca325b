"""Rows of a finished `occupancy.zarr` together with their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pipelines.lineage import check_origin
from pipelines.occupancy.occ3d import LABEL_ARRAYS, Labels
from pipelines.scheduler import Scheduler, run_tasks
from pipelines.stage import Origin, Unit, read_manifest, scene_units
from pipelines.zarr_io import StoreRows
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord, read_index, read_records
from schemas.workfolder import WorkFolder

Result = TypeVar("Result")


def dropped_tokens(dataset: DatasetSpec, work: Path) -> frozenset[str]:
    """Tokens of the keyframes that the finished store lacks because they were broken.

    Raises:
        DataError: the store is not finished.
        ConfigError: store, records and the dataset's entry do not belong together.
    """
    folders = WorkFolder(work)
    check_origin(Origin(dataset, stores={"records": folders.records, "occupancy": folders.occupancy}))
    return frozenset(read_manifest(folders.occupancy).dropped)


def each_scene(
    work: Path, task: Callable[[Unit], Result], scheduler: Scheduler, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Unit, Result]]:
    """Results of a task on every scene, as they finish; the first exception is raised.

    Args:
        work: folder with finished `records`.
        task: what to do with a scene's rows.
        scheduler: where tasks run.
        on_progress: called with finished and total keyframes.
    """
    units = scene_units(read_index(WorkFolder(work).records))
    total, done = sum(unit.size for unit in units), 0
    for unit, outcome in run_tasks(task, units, scheduler):
        if isinstance(outcome, Exception):
            raise outcome
        yield unit, outcome
        done += unit.size
        on_progress(done, total)


def labelled_rows(work: Path, unit: Unit, dropped: frozenset[str]) -> list[tuple[int, SampleRecord]]:
    """Number and record of each row of a unit that has labels: some split names it and it was not dropped."""
    entries = [entry for entry in unit.entries if entry.splits and entry.token not in dropped]
    return [(e.row, record) for e, record in zip(entries, read_records(WorkFolder(work).records, entries), strict=True)]


def read_row(work: Path, row: int) -> tuple[SampleRecord, Labels]:
    """Record and labels of one row.

    Raises:
        DataError: records or store are not finished or have no such row.
    """
    entries = read_index(WorkFolder(work).records)[row : row + 1]
    if not entries:
        raise DataError(f"{WorkFolder(work).records} has no row {row}; run `protoocc prepare` again")
    return read_records(WorkFolder(work).records, entries)[0], stored_labels(open_labels(work), row, entries[0].token)


def open_labels(work: Path) -> StoreRows:
    """The finished `occupancy.zarr` of a folder, for many calls of `stored_labels`: opening it hashes its own files.

    Raises:
        DataError: the store is not finished, or its own files are damaged.
    """
    return StoreRows(WorkFolder(work).occupancy, "occupancy")


def stored_labels(store: StoreRows, row: int, token: str) -> Labels:
    """`semantics`, `mask_lidar` and `mask_camera` of one row.

    Args:
        store: from `open_labels`.
        row: number of the record.
        token: of the sample that the row must belong to.

    Raises:
        DataError: the row is damaged or belongs to another sample.
    """
    values = store.read(row, token)
    return {name: values[name] for name in LABEL_ARRAYS}
