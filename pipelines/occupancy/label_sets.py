"""Import of SurroundOcc and OpenOccupancy: lists of occupied voxels in the LiDAR frame, with grids of their own.

Both number classes as nuScenes-lidarseg's challenge does, which are Occ3D's numbers: 1 barrier to 16 vegetation. Their
class 0 is noise, which their own losses skip: it becomes unknown. Voxels that a file does not list are free. Neither
set knows visibility, and their own scores count every voxel of a known class, so that is what both masks mark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Int64, UInt8
from pydantic import Field

from pipelines.occupancy.occ3d import Labels, labels_from_occ3d
from pipelines.occupancy.resample import resample
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError, raise_machine_fault
from schemas.geometry import VoxelGrid
from schemas.outside import Source, read_bytes, read_npy
from schemas.outside.limits import NPY_HEADER_BYTES
from schemas.records import SampleRecord
from schemas.settings import Frozen

LISTED_SHARE: Final = 4
"""A list may name one in so many voxels of its grid; matter fills far fewer."""
_COLUMNS: Final = 4
_WIDEST: Final = 8
"""Bytes of a value."""


class ImportConfig(Frozen):
    """Import of a published label set that is not Occ3D's."""

    kind: Literal["surroundocc", "openoccupancy"] = Field(description="Source: the label set.")
    labels: Path = Field(description="Folder of its files.")
    resample: bool = Field(
        False, description="Bring labels into the dataset's grid and frame where these are not the set's own."
    )


@dataclass(frozen=True)
class LabelSet:
    """How one set stores a keyframe: an `.npy` of (n, 4) whole numbers, three indices and a class."""

    grid: VoxelGrid
    columns: tuple[int, int, int]
    """Columns of the x, y and z index; the class is the last one."""
    path_of: Callable[[Path, DatasetSpec, SampleRecord], Path]
    in_metres: bool = False
    """Rows hold the middles of voxels in the place of their indices."""


def _surroundocc_path(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> Path:
    name = f"{Path(record.keyframe_sweep.path).name}.npy"
    return folder / "samples" / name if (folder / "samples").is_dir() else folder / name


def _surroundocc_result_path(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> Path:
    return folder / f"{Path(record.keyframe_sweep.path).name}." / "pred.npy"


def _openoccupancy_path(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> Path:
    path = dataset.root / dataset.version / "scene.json"
    try:
        token = next(row["token"] for row in json.loads(path.read_bytes()) if row["name"] == record.scene)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise_machine_fault(error)
        raise DataError(f"{path} does not tell the token of {record.scene} ({error!r}); restore the table") from error
    return folder / f"scene_{token}" / "occupancy" / f"{record.keyframe_sweep.token}.npy"


LABEL_SETS: Final[Mapping[str, LabelSet]] = {
    "surroundocc": LabelSet(
        grid=VoxelGrid(minimum_m=(-50.0, -50.0, -5.0), voxel_size_m=0.5, shape=(200, 200, 16), frame="lidar"),
        columns=(0, 1, 2),
        path_of=_surroundocc_path,
    ),
    "openoccupancy": LabelSet(
        grid=VoxelGrid(minimum_m=(-51.2, -51.2, -5.0), voxel_size_m=0.2, shape=(512, 512, 40), frame="lidar"),
        columns=(2, 1, 0),
        path_of=_openoccupancy_path,
    ),
}
"""SurroundOcc: `[samples/]<point file>.npy` with rows x y z class; OpenOccupancy:
`scene_<token>/occupancy/<lidar token>.npy` with rows z y x class."""


SURROUNDOCC_RESULTS: Final = LabelSet(
    grid=LABEL_SETS["surroundocc"].grid, columns=(0, 1, 2), path_of=_surroundocc_result_path, in_metres=True
)
"""What SurroundOcc's own program leaves of a prediction: `<point file>./pred.npy`, rows x y z (metres, LiDAR) class."""


def check_grid(dataset: DatasetSpec, config: ImportConfig) -> None:
    """Checks that labels fit the dataset's grid or may be resampled.

    Raises:
        ConfigError: they do not, or the folder is not there.
    """
    if not config.labels.is_dir():
        raise ConfigError(f"--labels {config.labels}: no such folder; expected the files of {config.kind}")
    grid = LABEL_SETS[config.kind].grid
    if dataset.grid != grid and not config.resample:
        raise ConfigError(
            f"{config.kind} has the grid {_text(grid)}, '{dataset.name}' in datasets.yaml {_text(dataset.grid)}. "
            "Give the entry that grid to keep the labels as they are, or pass --resample to bring them into yours."
        )


def _text(grid: VoxelGrid) -> str:
    low, shape = list(grid.minimum_m), list(grid.shape)
    return f"{{minimum_m: {low}, voxel_size_m: {grid.voxel_size_m}, shape: {shape}, frame: {grid.frame}}}"


def imported_file(dataset: DatasetSpec, config: ImportConfig, record: SampleRecord) -> Path:
    """Label file of one keyframe.

    Raises:
        DataError: the tables do not tell its name.
    """
    return LABEL_SETS[config.kind].path_of(config.labels, dataset, record)


def read_imported(dataset: DatasetSpec, config: ImportConfig, record: SampleRecord) -> Labels:
    """Labels of one keyframe in the dataset's grid.

    Raises:
        DataError: the file is missing, cut short or holds something else.
        ConfigError: a class has no counterpart in the dataset's table.
    """
    return read_listed(imported_file(dataset, config, record), LABEL_SETS[config.kind], dataset, record)


def read_listed(path: Path, label_set: LabelSet, dataset: DatasetSpec, record: SampleRecord) -> Labels:
    """A list of voxels of one keyframe in the dataset's grid.

    Raises:
        DataError: the file is missing, cut short or holds something else.
        ConfigError: a class has no counterpart in the dataset's table.
    """
    table = dataset.classes
    numbers = _fill(label_set, _read_rows(path, record.token, label_set), f"{path} (sample {record.token})")
    semantics = labels_from_occ3d(dataset)[numbers]
    if dataset.grid != label_set.grid:
        mounting = record.keyframe_sweep.ego_from_lidar.matrix
        semantics = resample(semantics, label_set.grid, dataset.grid, ego_from_lidar=mounting, table=table)
    known = (semantics != table.ignored).astype(np.uint8)
    return {"semantics": semantics, "mask_lidar": known, "mask_camera": known}


def _read_rows(path: Path, token: str, label_set: LabelSet) -> Int64[np.ndarray, "n 4"]:
    grid = label_set.grid
    where = f"{path} (sample {token})"
    source = Source(where, "Check --labels, or copy it again.")
    largest = _COLUMNS * _WIDEST * math.prod(grid.shape) // LISTED_SHARE
    rows = read_npy(source, read_bytes(source, path, largest + NPY_HEADER_BYTES), largest)
    if rows.ndim != 2 or rows.shape[1] != _COLUMNS or rows.dtype.kind not in "iuf":
        raise DataError(f"{where}: {rows.dtype} {rows.shape}, expected an array (n, 4) of three indices and a class")
    if label_set.in_metres:
        if not np.isfinite(rows).all():
            raise DataError(f"{where}: holds {rows[~np.isfinite(rows).all(axis=1)][0]}, expected metres and a class")
        rows = np.concatenate([grid.voxel_index(rows[:, :3].astype(np.float64)), rows[:, 3:]], axis=1)
    with np.errstate(invalid="ignore"):
        whole = rows.astype(np.int64)
    if not np.array_equal(whole, rows):
        raise DataError(f"{where}: holds {rows[(whole != rows).any(axis=1)][0]}, expected whole numbers")
    return whole


def _fill(label_set: LabelSet, rows: Int64[np.ndarray, "n 4"], where: str) -> UInt8[np.ndarray, "X Y Z"]:
    """Numbers of Occ3D in the set's own grid."""
    index, label = rows[:, label_set.columns], rows[:, 3]
    bad = ~label_set.grid.contains(index) | (label < 0) | (label >= OCC3D.free)
    if bad.any():
        raise DataError(
            f"{where}: row {int(bad.argmax())} is {rows[bad.argmax()].tolist()}, expected voxel indices below "
            f"{label_set.grid.shape} (x, y, z) and a class 0..{OCC3D.free - 1}. Is this the right label set?"
        )
    numbers = np.full(label_set.grid.shape, OCC3D.free, dtype=np.uint8)
    numbers[tuple(index.T)] = np.where(label == 0, OCC3D.ignored, label)
    return numbers
