"""Stage `npz`: a finished occupancy store as Occ3D `labels.npz` files that other programs read as they are."""

from __future__ import annotations

import io
import shlex
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.files import write_bytes
from pipelines.occupancy.occ3d import Labels, label_file
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
from schemas.classes import OCC3D, ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.names import folder_of
from schemas.records import read_index
from schemas.workfolder import UNITS, WorkFolder

GTS = "gts"
"""Folder of the scenes, as in the published set."""


def write_label_files(dataset: DatasetSpec, work: Path, out: Path, runtime: Runtime) -> StageSummary:
    """Writes `<out>/gts/<scene>/<token>/labels.npz` for every keyframe that the store holds.

    Args:
        dataset: whose grid and class table the store has.
        work: folder with finished `records` and `occupancy.zarr`.
        out: a folder of its own; plan, markers and manifest of this stage lie beside `gts`.
        runtime: scheduler and overwrite.

    Raises:
        DataError: the labels are not finished.
        ConfigError: ``out`` holds something else or files of other labels, the labels' grid is not the ego frame's, or
            a class of theirs is none of Occ3D's.
    """
    if dataset.grid.frame != "ego":
        raise ConfigError(f"Occ3D files hold labels in the ego frame; the grid of '{dataset.name}' is in the LiDAR's")
    _check_classes(dataset)
    dropped = dropped_tokens(dataset, work)
    folders = WorkFolder(work)
    stage = Stage(
        name="npz",
        folder=out,
        config={},
        inputs={},
        units=scene_units(read_index(folders.records)),
        work=partial(_write_scene, work, dataset.classes, dropped),
        create=lambda folder: (folder / UNITS).mkdir(parents=True),
        layout=Layout(patterns=(f"{GTS}/*/*/labels.npz",), pieces=_files_of_scene),
        origin=Origin(
            dataset,
            fields=("grid", "classes.names", "classes.free"),
            stores={"records": folders.records, "occupancy": folders.occupancy},
            command=f"protoocc occupancy --write-npz {{folder}} --dataset {shlex.quote(dataset.name)}",
        ),
    )
    return run_stage(stage, runtime)


def _check_classes(dataset: DatasetSpec) -> None:
    strange = sorted(set(dataset.classes.occupied) - set(OCC3D.occupied))
    if strange:
        raise ConfigError(
            f"Occ3D files know no class '{strange[0]}' of the class table of '{dataset.name}'; their classes are "
            f"{', '.join(OCC3D.occupied)}. Use the stored labels instead, or pack them."
        )


def _write_scene(work: Path, table: ClassTable, dropped: frozenset[str], out: Path, unit: Unit) -> UnitReport:
    rows, store = labelled_rows(work, unit, dropped), open_labels(work)
    for row, record in rows:
        labels = stored_labels(store, row, record.token)
        write_bytes(label_file(out / GTS, record), encode_labels(labels, table))
    return UnitReport(done=len(rows))


def _files_of_scene(unit: Unit) -> list[Piece]:
    return [Piece(entry.token, (f"{GTS}/{folder_of(entry.scene)}/{entry.token}/labels.npz",)) for entry in unit.entries]


def encode_labels(labels: Labels, table: ClassTable) -> bytes:
    """A `labels.npz` in Occ3D's form: the three arrays in the published order, uint8, deflate; no times, no pickle.

    Classes get the numbers that `OCC3D` has for their names. Other programs know no unknown class: they assert classes
    or index a table with them. A voxel of unknown class is therefore written as free and unobserved (both masks 0), as
    the published files do with unobserved ones, so that losses and scores that use a mask skip it. A fourth array
    `unknown` then keeps what was there for `read_labels`: 0 known, else 1 + mask_lidar + mask_camera.

    Args:
        labels: of one keyframe.
        table: their classes, whose names `OCC3D` has too.
    """
    unknown = labels["semantics"] == table.ignored
    numbers = np.full(256, OCC3D.free, dtype=np.uint8)
    numbers[table.labels_of(table.occupied)] = OCC3D.labels_of(table.occupied)
    files = {
        "semantics": numbers[labels["semantics"]],
        "mask_lidar": np.where(unknown, np.uint8(0), labels["mask_lidar"]),
        "mask_camera": np.where(unknown, np.uint8(0), labels["mask_camera"]),
    }
    if unknown.any():
        files["unknown"] = unknown * (np.uint8(1) + labels["mask_lidar"] + labels["mask_camera"])
    data = io.BytesIO()
    np.savez_compressed(data, **files)
    return data.getvalue()
