"""Occ3D label files: read, check, number their classes as the dataset's table does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.names import folder_of
from schemas.outside import Source, read_bytes, read_npz
from schemas.outside.limits import MEMBER_FACTOR, MEMBER_SLACK
from schemas.records import SampleRecord

LABEL_ARRAYS: Final = ("semantics", "mask_lidar", "mask_camera")
_HIGHEST: Final = {"semantics": OCC3D.free, "mask_lidar": 1, "mask_camera": 1, "unknown": 3}
_WIDEST: Final = 8
"""Bytes of a value: wider numbers than uint8 are read, so that their type can be told."""

Labels = dict[str, UInt8[np.ndarray, "X Y Z"]]
"""`semantics`, `mask_lidar` and `mask_camera` of one keyframe."""


def labels_from_occ3d(dataset: DatasetSpec) -> UInt8[np.ndarray, " 256"]:
    """Label of the dataset's table for each of Occ3D's numbers.

    A class becomes the one of the same name, or the one that `categories` of the dataset's entry names for it. Free
    stays free, and numbers that are no class are ignored.

    Raises:
        ConfigError: a class has no counterpart.
    """
    table = dataset.classes
    labels = np.full(256, table.ignored, dtype=np.uint8)
    labels[OCC3D.free] = table.free
    for name in OCC3D.occupied:
        target = dataset.categories.get(name, name)
        if target not in table.occupied:
            raise ConfigError(
                f"'{dataset.name}' in datasets.yaml: the label files have a class '{name}', its class table has not. "
                f"Say under `categories` what it is, such as `{name}: {table.occupied[0]}`."
            )
        labels[OCC3D.index(name)] = table.index(target)
    return labels


def label_file(gts: Path, record: SampleRecord) -> Path:
    """Where a folder of Occ3D labels has those of a keyframe."""
    return gts / folder_of(record.scene) / record.token / "labels.npz"


def read_labels(path: Path, token: str, dataset: DatasetSpec) -> Labels:
    """Reads one `labels.npz`, whose classes are numbered as in Occ3D-nuScenes.

    Args:
        path: the file, `<labels>/<scene>/<token>/labels.npz`.
        token: sample token, for messages.
        dataset: grid and class table of the result.

    Returns:
        `semantics` with labels of the dataset's table, `mask_lidar` and `mask_camera` with 1 = observed, all uint8.
        Of files that this program wrote some may be the ignored one, see `pipelines.occupancy.export`.

    Raises:
        DataError: the file is missing, cut short, or holds other arrays, another shape, dtype or value.
        ConfigError: a class of Occ3D has no counterpart in the table.

    Source: Occ3D-nuScenes (CVPR 2023 challenge), axis order x, y, z in the ego frame of the LIDAR_TOP keyframe.
    """
    where = f"{path} (sample {token})"
    source = Source(where, "Check `labels` and `root` in datasets.yaml, or copy it again.")
    largest = math.prod(dataset.grid.shape)
    data = read_bytes(source, path, len(_HIGHEST) * MEMBER_FACTOR * _WIDEST * largest + MEMBER_SLACK)
    labels = read_npz(source, data, _HIGHEST, _WIDEST * largest)
    missing = [name for name in LABEL_ARRAYS if name not in labels]
    if missing:
        raise DataError(f"{where}: array '{missing[0]}' is missing; expected {', '.join(LABEL_ARRAYS)}")
    for name, values in labels.items():
        _check(where, name, values, dataset.grid.shape)
    labels["semantics"] = labels_from_occ3d(dataset)[labels["semantics"]]
    return _restore_unknown(labels, dataset.classes.ignored)


def _restore_unknown(labels: Labels, ignored: int) -> Labels:
    """Gives back the ignored label and its masks where `encode_labels` of this program had to hide them."""
    if "unknown" not in labels:
        return labels
    unknown = labels.pop("unknown")
    return {
        "semantics": np.where(unknown > 0, np.uint8(ignored), labels["semantics"]),
        "mask_lidar": np.where(unknown > 0, (unknown >= 2).astype(np.uint8), labels["mask_lidar"]),
        "mask_camera": np.where(unknown > 0, (unknown == 3).astype(np.uint8), labels["mask_camera"]),
    }


def _check(where: str, name: str, values: np.ndarray, shape: tuple[int, int, int]) -> None:
    if values.dtype != np.uint8 or values.shape != shape:
        raise DataError(
            f"{where}: '{name}' is {values.dtype} {values.shape}, expected uint8 {shape} as in datasets.yaml"
        )
    if values.max() > _HIGHEST[name]:
        raise DataError(f"{where}: '{name}' holds {values.max()}, expected 0..{_HIGHEST[name]}")
