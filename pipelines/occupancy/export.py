"""Stage `npz`: a finished occupancy store as Occ3D `labels.npz` files that other programs read as they are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored_files import FileForm, write_files
from pipelines.stage import Runtime, StageSummary
from schemas.classes import OCC3D, ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.names import folder_of
from schemas.records import RecordEntry, SampleRecord

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
    return write_files(dataset, work, out, runtime, FORM)


def _check_classes(dataset: DatasetSpec) -> None:
    strange = sorted(set(dataset.classes.occupied) - set(OCC3D.occupied))
    if strange:
        raise ConfigError(
            f"Occ3D files know no class '{strange[0]}' of the class table of '{dataset.name}'; their classes are "
            f"{', '.join(OCC3D.occupied)}. Use the stored labels instead, or pack them."
        )


def _paths(keyframe: RecordEntry | SampleRecord) -> tuple[str, ...]:
    return (f"{GTS}/{folder_of(keyframe.scene)}/{keyframe.token}/labels.npz",)


def _encode(dataset: DatasetSpec, record: SampleRecord, labels: Labels) -> Mapping[str, bytes]:
    (path,) = _paths(record)
    return {path: encode_labels(labels, dataset.classes)}


FORM: Final = FileForm("npz", (f"{GTS}/*/*/labels.npz",), _paths, _encode)
"""Occ3D's `labels.npz`."""


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
