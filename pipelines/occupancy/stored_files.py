"""A finished occupancy store as files that other programs read: what all such forms share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipelines.files import write_bytes
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored import dropped_tokens, labelled_rows, open_labels, stored_labels
from pipelines.stage import (
    Layout,
    Origin,
    Piece,
    Runtime,
    Stage,
    StageSummary,
    Unit,
    UnitReport,
    run_stage,
    scene_units,
)
from schemas.datasets import DatasetSpec
from schemas.records import RecordEntry, SampleRecord, read_index
from schemas.workfolder import UNITS, WorkFolder


class FileForm(NamedTuple):
    """One form of files; the functions are top-level ones, which pickle."""

    name: str
    """Of its stage; `protoocc occupancy --write-<name>` makes it."""
    patterns: tuple[str, ...]
    """Of all its files, below the folder."""
    paths: Callable[[RecordEntry], tuple[str, ...]]
    """Those of one keyframe."""
    encode: Callable[[DatasetSpec, SampleRecord, Labels], Mapping[str, bytes]]
    """Their contents, by the same paths."""


def write_files(dataset: DatasetSpec, work: Path, out: Path, runtime: Runtime, form: FileForm) -> StageSummary:
    """Writes the files of every keyframe that the store holds.

    Args:
        dataset: whose grid and class table the store has.
        work: folder with finished `records` and `occupancy.zarr`.
        out: a folder of its own; plan, markers and manifest of this stage lie beside the files.
        runtime: scheduler and overwrite.
        form: of the files.

    Raises:
        DataError: the labels are not finished.
        ConfigError: ``out`` holds something else or files of other labels.
    """
    dropped = dropped_tokens(dataset, work)
    folders = WorkFolder(work)
    stage = Stage(
        name=form.name,
        folder=out,
        config={},
        inputs={},
        units=scene_units(read_index(folders.records)),
        work=partial(_write_scene, dataset, work, dropped, form),
        create=lambda folder: (folder / UNITS).mkdir(parents=True),
        layout=Layout(patterns=form.patterns, pieces=partial(_pieces, form)),
        origin=Origin(
            dataset,
            fields=("grid", "classes.names", "classes.free"),
            stores={"records": folders.records, "occupancy": folders.occupancy},
            command=f"protoocc occupancy --write-{form.name} {{folder}} --dataset {shlex.quote(dataset.name)}",
        ),
    )
    return run_stage(stage, runtime)


def _write_scene(
    dataset: DatasetSpec, work: Path, dropped: frozenset[str], form: FileForm, out: Path, unit: Unit
) -> UnitReport:
    rows, store = labelled_rows(work, unit, dropped), open_labels(work)
    for row, record in rows:
        for path, data in form.encode(dataset, record, stored_labels(store, row, record.token)).items():
            write_bytes(out / path, data)
    return UnitReport(done=len(rows))


def _pieces(form: FileForm, unit: Unit) -> list[Piece]:
    return [Piece(entry.token, form.paths(entry)) for entry in unit.entries]
