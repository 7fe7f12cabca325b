"""Stage `voxels`: a finished occupancy store as voxel files in SemanticKITTI's form."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipelines.files import write_bytes
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored import dropped_tokens, labelled_rows, open_labels, stored_labels
from pipelines.occupancy.voxel_files import VoxelsConfig, class_numbers, scan_voxels, voxel_file
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
from schemas.classes import SEMANTICKITTI, ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import read_index
from schemas.semantickitti import UNKNOWN, raw_of_class, write_bits, write_voxel_labels
from schemas.workfolder import UNITS, WorkFolder

SEQUENCES: Final = "sequences"
SUFFIXES: Final = (".bin", ".label", ".invalid", ".occluded")


def write_voxel_files(dataset: DatasetSpec, work: Path, out: Path, runtime: Runtime) -> StageSummary:
    """Writes `<out>/sequences/<sequence>/voxels/<scan>` with four suffixes for every keyframe that the store holds.

    Args:
        dataset: whose grid and class table the store has.
        work: folder with finished `records` and `occupancy.zarr`.
        out: a folder of its own; plan, markers and manifest of this stage lie beside `sequences`.
        runtime: scheduler and overwrite.

    Raises:
        DataError: the labels are not finished.
        ConfigError: the dataset is not SemanticKITTI's, or ``out`` holds something else or files of other labels.
    """
    if dataset.format != "semantickitti":
        raise ConfigError(
            f"--write-voxels names files by sequence and scan, as format semantickitti has them; '{dataset.name}' has "
            f"format {dataset.format}. Use --write-npz."
        )
    class_numbers(dataset)
    dropped = dropped_tokens(dataset, work)
    folders = WorkFolder(work)
    stage = Stage(
        name="voxels",
        folder=out,
        config={},
        inputs={},
        units=scene_units(read_index(folders.records)),
        work=partial(_write_scene, dataset, work, dropped),
        create=lambda folder: (folder / UNITS).mkdir(parents=True),
        layout=Layout(patterns=tuple(f"{SEQUENCES}/*/voxels/*{suffix}" for suffix in SUFFIXES), pieces=_files_of_scene),
        origin=Origin(
            dataset,
            fields=("grid", "classes.names", "classes.free"),
            stores={"records": folders.records, "occupancy": folders.occupancy},
            command=f"protoocc occupancy --write-voxels {{folder}} --dataset {shlex.quote(dataset.name)}",
        ),
    )
    return run_stage(stage, runtime)


def _write_scene(dataset: DatasetSpec, work: Path, dropped: frozenset[str], out: Path, unit: Unit) -> UnitReport:
    rows, store = labelled_rows(work, unit, dropped), open_labels(work)
    config = VoxelsConfig(labels=out / SEQUENCES)
    for row, record in rows:
        files = encode_voxels(stored_labels(store, row, record.token), dataset.classes)
        files[".bin"] = write_bits(scan_voxels(dataset, record))
        for suffix, data in files.items():
            write_bytes(voxel_file(dataset, config, record, suffix), data)
    return UnitReport(done=len(rows))


def _files_of_scene(unit: Unit) -> list[Piece]:
    return [
        Piece(
            entry.token,
            tuple(f"{SEQUENCES}/{entry.scene}/voxels/{entry.token.rpartition('-')[2]}{suffix}" for suffix in SUFFIXES),
        )
        for entry in unit.entries
    ]


def encode_voxels(labels: Labels, table: ClassTable) -> dict[str, bytes]:
    """`.label`, `.invalid` and `.occluded` of one keyframe in the official packing.

    Classes get their raw ids of `INVERSE_MAP`, matter of unknown class gets 1 (outlier), which reads as unknown again.

    Args:
        labels: of one keyframe.
        table: their classes, whose names SemanticKITTI's table has too.
    """
    numbers = np.full(256, UNKNOWN, dtype=np.uint8)
    numbers[table.free] = SEMANTICKITTI.free
    names = [name for name in table.occupied if name in SEMANTICKITTI.occupied]
    numbers[table.labels_of(tuple(names))] = SEMANTICKITTI.labels_of(tuple(names))
    return {
        ".label": write_voxel_labels(raw_of_class(numbers[labels["semantics"]])),
        ".invalid": write_bits(labels["mask_camera"] == 0),
        ".occluded": write_bits(labels["mask_lidar"] == 0),
    }
