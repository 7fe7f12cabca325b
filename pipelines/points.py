"""LiDAR files and their point labels, checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16

from pipelines.lidar_files import HEAD_VALUES, VALUE_BYTES, check_columns, check_points
from pipelines.point_labels import KITTI_SUFFIX, PANOPTIC_SUFFIX, read_categories
from schemas.classes import SEMANTICKITTI
from schemas.datasets import DatasetSpec, Format
from schemas.errors import ConfigError, DataError, raise_machine_fault
from schemas.records import LidarRecord, SampleRecord
from schemas.semantickitti import FIRST_MOVING, LEARNING_MAP, NOISE
from schemas.semantickitti import UNKNOWN as OTHER_MATTER

UNKNOWN: Final = 255
"""Point whose class nobody found. Tables have at most 200 classes, so these numbers are none."""
UNLABELLED: Final = 254
"""Point without a label of its own."""
NOT_MATTER: Final = 253
"""Point that the annotators call noise or own vehicle: it is dropped."""
_NO_CATEGORY: Final = 252


def require_lidar(dataset: DatasetSpec, step: str) -> None:
    """Refuses a step on logs of cameras alone.

    Raises:
        ConfigError: the entry has `lidar: null`.
    """
    if dataset.lidar is None:
        raise ConfigError(
            f"{step} needs a LiDAR, and '{dataset.name}' in datasets.yaml has `lidar: null`. Name its channel there, "
            "or import labels with --source occ3d."
        )


def class_of_index(dataset: DatasetSpec) -> UInt8[np.ndarray, " k"]:
    """Class of each value that a point-label file may hold, by the category's name.

    Returns:
        (256,) uint8, semantickitti (65536,): class of the dataset's table, `NOT_MATTER` for noise and the own vehicle,
        another number where no category is.

    Raises:
        ConfigError: the dataset's table lacks a class of the format's own.
        DataError: `category.json` is missing, has no `index`, or names a category without a class.
    """
    return _CLASS_TABLES[dataset.format](dataset)


def _kitti_classes(dataset: DatasetSpec) -> UInt8[np.ndarray, " 65536"]:
    """The learning map, by the names of the classes; noise is no matter, as in the official voxels."""
    missing = [name for name in SEMANTICKITTI.occupied if name not in dataset.classes.occupied]
    if missing:
        raise ConfigError(
            f"dataset '{dataset.name}': point labels need the classes of SemanticKITTI, and '{missing[0]}' is none of "
            f"{', '.join(dataset.classes.occupied)}. Write `classes: semantickitti` in datasets.yaml."
        )
    table = np.full(2**16, _NO_CATEGORY, dtype=np.uint8)
    for raw, label in LEARNING_MAP.items():
        table[raw] = UNKNOWN if label == OTHER_MATTER else dataset.classes.index(SEMANTICKITTI.names[label])
    table[list(NOISE)] = NOT_MATTER
    return table


def _nuscenes_classes(dataset: DatasetSpec) -> UInt8[np.ndarray, " 256"]:
    path = dataset.root / dataset.version / "category.json"
    table = np.full(256, _NO_CATEGORY, dtype=np.uint8)
    try:
        for row in json.loads(path.read_bytes()):
            name, index = row["name"], row["index"]
            table[index] = NOT_MATTER if name in ("noise", "vehicle.ego") else _class_of(dataset, path, name)
    except FileNotFoundError:
        raise DataError(f"{path} not found; the point labels need it.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    except (IndexError, TypeError) as error:
        raise DataError(f"{path}: rows need a `name` and an `index` of 0 to 255 ({error})") from error
    except KeyError as error:
        raise DataError(
            f"{path}: {error} is missing. Point labels need the category.json of nuScenes-lidarseg, with an `index`."
        ) from error
    return table


def _class_of(dataset: DatasetSpec, path: Path, category: str) -> int:
    try:
        return dataset.class_of(category)
    except KeyError:
        raise DataError(
            f"{path}: category '{category}' has no class in the table of '{dataset.name}'. Give it one under "
            "`categories` in datasets.yaml."
        ) from None


_CLASS_TABLES: Final[Mapping[Format, Callable[[DatasetSpec], UInt8[np.ndarray, " k"]]]] = {
    "nuscenes": _nuscenes_classes,
    "semantickitti": _kitti_classes,
}
"""Class of each value of a point-label file, by the format of the raw data."""


def moving_indices(dataset: DatasetSpec) -> Bool[np.ndarray, " k"] | None:
    """Which values of a point-label file say that the thing moves; None for formats that have boxes to tell it."""
    return np.arange(2**16) >= FIRST_MOVING if dataset.format == "semantickitti" else None


def read_moving(dataset: DatasetSpec, lidar: LidarRecord, token: str, count: int) -> Bool[np.ndarray, " n"]:
    """Which points of a sweep belong to things that move, as far as its point labels tell.

    Raises:
        DataError: as `read_point_labels`.
    """
    moving = moving_indices(dataset)
    if moving is None or lidar.labels_path is None:
        return np.zeros(count, dtype=bool)
    return moving[_read_indices(dataset, lidar, token, count)]


def kind_of_point_labels(records: Sequence[SampleRecord]) -> str:
    """Set that all point labels of a scene come from: `panoptic`, `semantickitti`, or else `lidarseg`."""
    sweeps = [record.keyframe_sweep for record in records]
    paths = [sweep.labels_path for sweep in sweeps if sweep.labels_path is not None]
    if paths and all(path.endswith(KITTI_SUFFIX) for path in paths):
        return "semantickitti"
    return "panoptic" if paths and all(path.endswith(PANOPTIC_SUFFIX) for path in paths) else "lidarseg"


def read_points(dataset: DatasetSpec, lidar: LidarRecord, token: str) -> Float64[np.ndarray, "n 3"]:
    """Points of one sweep, (N, 3) metres, LiDAR frame.

    Raises:
        DataError: the file is missing, cut short, or holds other values than points: see `pipelines.lidar_files`.
    """
    path = dataset.root / lidar.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise_machine_fault(error)
        raise DataError(f"{path} (sample {token}): LiDAR file cannot be read ({error.strerror})") from error
    point_bytes = VALUE_BYTES * lidar.point_columns
    if len(data) % point_bytes or not data:
        raise DataError(
            f"{path} (sample {token}): {len(data)} bytes, expected a multiple of {point_bytes} ({lidar.point_columns} "
            "float32 per point). The file is cut short; copy it again."
        )
    values = np.frombuffer(data, dtype="<f4")
    check_columns(f"{path} (sample {token})", values[:HEAD_VALUES], lidar.point_columns, len(values))
    points = values.reshape(-1, lidar.point_columns)[:, :3].astype(np.float64)
    check_points(f"{path} (sample {token})", points)
    return points


def read_point_labels(
    dataset: DatasetSpec, lidar: LidarRecord, token: str, table: UInt8[np.ndarray, " k"], count: int
) -> UInt8[np.ndarray, " n"]:
    """Class of each point of one sweep; `UNLABELLED` throughout if the sweep has no label file.

    Args:
        dataset: whose root holds the files.
        lidar: the sweep.
        token: sample token, for messages.
        table: from `class_of_index`.
        count: number of points of the sweep.

    Raises:
        DataError: the label file is missing, has another length, or holds an index that no category has.

    Source: nuScenes-lidarseg, nuScenes-panoptic and SemanticKITTI, see `pipelines.point_labels`.
    """
    if lidar.labels_path is None:
        return np.full(count, UNLABELLED, dtype=np.uint8)
    path = dataset.root / lidar.labels_path
    indices = _read_indices(dataset, lidar, token, count)
    labels = table[indices]
    if (labels == _NO_CATEGORY).any():
        index = int(indices[(labels == _NO_CATEGORY).argmax()])
        raise DataError(
            f"{path} (sample {token}): label {index} is the index of no row of category.json (SemanticKITTI: no raw id)"
        )
    return labels


def _read_indices(dataset: DatasetSpec, lidar: LidarRecord, token: str, count: int) -> UInt16[np.ndarray, " n"]:
    path = dataset.root / str(lidar.labels_path)
    indices = read_categories(path, token)
    if len(indices) != count:
        raise DataError(
            f"{path} (sample {token}): {len(indices)} labels for {count} points of {lidar.path}. Copy both files again."
        )
    return indices
