"""Label files in the layouts of `pipelines.occupancy.layouts`: read, check, number classes as the dataset does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from pipelines.occupancy.layouts import LAYOUTS, MASKS, Layout, LayoutName, Target, layout_of
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.names import folder_of
from schemas.outside import Source, read_bytes, read_npz
from schemas.outside.arrays import zip_entries
from schemas.outside.limits import MEMBER_FACTOR, MEMBER_SLACK
from schemas.records import SampleRecord

LABEL_ARRAYS: Final = ("semantics", *MASKS)
_UNKNOWN: Final = "unknown"
_WIDEST: Final = 8
"""Bytes of a value: wider numbers than uint8 are read where they fit."""

Labels = dict[str, UInt8[np.ndarray, "X Y Z"]]
"""`semantics`, `mask_lidar` and `mask_camera` of one keyframe."""


def labels_from(dataset: Target, layout: Layout) -> UInt8[np.ndarray, " 256"]:
    """Label of the dataset's table for each number of a layout.

    A class becomes the one of the same name, or the one that `categories` of the dataset's entry names for it. Free
    stays free, and numbers that are no class are ignored.

    Raises:
        ConfigError: a class has no counterpart.
    """
    table = dataset.classes
    labels = np.full(256, table.ignored, dtype=np.uint8)
    for number, name in enumerate(layout.classes):
        if number in layout.free:
            continue
        target = dataset.categories.get(name, name)
        if target not in table.occupied:
            raise ConfigError(
                f"'{dataset.name}' in datasets.yaml: the label files have a class '{name}', its class table has not. "
                f"Say under `categories` what it is, such as `{name}: {table.occupied[0]}`."
            )
        labels[number] = table.index(target)
    labels[list(layout.free)] = table.free
    return labels


def labels_from_occ3d(dataset: DatasetSpec) -> UInt8[np.ndarray, " 256"]:
    """`labels_from` of Occ3D's numbers."""
    return labels_from(dataset, LAYOUTS["occ3d"])


def label_file(gts: Path, record: SampleRecord) -> Path:
    """Where a folder of Occ3D labels has those of a keyframe."""
    return gts / folder_of(record.scene) / record.token / "labels.npz"


def read_labels(path: Path, token: str, dataset: DatasetSpec, layout: LayoutName = "occ3d") -> Labels:
    """Reads one `labels.npz`.

    Whole numbers of any width are read, masks of truth values as well; 255 in the classes is an unknown one. Floats,
    other numbers and other shapes are refused.

    Args:
        path: the file, `<labels>/<scene>/<token>/labels.npz`.
        token: sample token, for messages.
        dataset: grid and class table of the result.
        layout: names of its arrays and numbers of its classes.

    Returns:
        `semantics` with labels of the dataset's table, `mask_lidar` and `mask_camera` with 1 = observed, all uint8.
        Of files that this program wrote some may be the ignored one, see `pipelines.occupancy.export`.

    Raises:
        DataError: the file is missing, cut short, or holds other arrays, another shape, dtype or value.
        ConfigError: a class of the layout has no counterpart in the table.

    Source: Occ3D-nuScenes (CVPR 2023 challenge), axis order x, y, z in the ego frame of the LIDAR_TOP keyframe.
    """
    where = f"{path} (sample {token})"
    rules = LAYOUTS[layout]
    arrays = _read_arrays(path, where, layout, math.prod(dataset.grid.shape))
    shape = dataset.grid.shape
    numbers = class_numbers(where, arrays[rules.arrays["semantics"]], shape, rules)
    labels = {"semantics": labels_from(dataset, rules)[numbers]}
    known = (labels["semantics"] != dataset.classes.ignored).astype(np.uint8)
    for name in MASKS:
        theirs = rules.arrays[name]
        labels[name] = _flags(where, theirs, arrays[theirs], shape, 1) if theirs in arrays else known
    if _UNKNOWN not in arrays:
        return labels
    unknown = _flags(where, _UNKNOWN, arrays[_UNKNOWN], shape, 3)
    return _restore_unknown(labels, unknown, dataset.classes.ignored)


def _read_arrays(path: Path, where: str, layout: LayoutName, voxels: int) -> dict[str, np.ndarray]:
    """The arrays of the layout and `unknown`, as they lie in the file."""
    wanted = (*LAYOUTS[layout].arrays.values(), _UNKNOWN)
    source = Source(where, "Check `labels` and `root` in datasets.yaml, or copy it again.")
    data = read_bytes(source, path, len(wanted) * MEMBER_FACTOR * _WIDEST * voxels + MEMBER_SLACK)
    arrays = read_npz(source, data, wanted, _WIDEST * voxels)
    missing = [name for name in LAYOUTS[layout].required if name not in arrays]
    if missing:
        found = frozenset(name.removesuffix(".npy") for name in zip_entries(source, data))
        raise DataError(f"{where}: {_what_is_missing(missing[0], found, layout)}")
    return arrays


def _what_is_missing(name: str, found: frozenset[str], layout: LayoutName) -> str:
    text = (
        f"array '{name}' is missing; expected {', '.join(LAYOUTS[layout].required)}, found {', '.join(sorted(found))}"
    )
    other = layout_of(found)
    return text if other is None else f"{text}. These are the arrays of `--source {other}`."


def _whole(where: str, name: str, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.shape != shape:
        raise DataError(
            f"{where}: '{name}' is {values.dtype} {values.shape}, expected uint8 {shape} as in datasets.yaml"
        )
    return values


def _flags(where: str, name: str, values: np.ndarray, shape: tuple[int, int, int], highest: int) -> np.ndarray:
    numbers = values.astype(np.uint8) if values.dtype.kind == "b" else values
    numbers = _whole(where, name, numbers, shape)
    if numbers.min() < 0 or numbers.max() > highest:
        bad = numbers.min() if numbers.min() < 0 else numbers.max()
        raise DataError(f"{where}: '{name}' holds {bad}, expected 0..{highest}")
    return numbers.astype(np.uint8)


def class_numbers(
    where: str, values: np.ndarray, shape: tuple[int, int, int], layout: Layout
) -> UInt8[np.ndarray, "X Y Z"]:
    """An array of classes as uint8.

    Args:
        where: file and sample, for messages.
        values: whole numbers of any width.
        shape: that they must have.
        layout: knows the numbers.

    Raises:
        DataError: another shape or type, or a number that is no class of the layout.
    """
    name = layout.arrays["semantics"]
    numbers = _whole(where, name, values, shape)
    known = np.isin(np.arange(256), [*range(len(layout.classes)), *layout.free, OCC3D.ignored])
    bad = (numbers < 0) | (numbers > 255) | ~known[numbers.astype(np.uint8)]
    if bad.any():
        raise DataError(f"{where}: '{name}' holds {numbers[bad].max()}, expected {layout.numbers}")
    return numbers.astype(np.uint8)


def _restore_unknown(labels: Labels, unknown: UInt8[np.ndarray, "X Y Z"], ignored: int) -> Labels:
    """Gives back the ignored label and its masks where `encode_labels` of this program had to hide them."""
    return {
        "semantics": np.where(unknown > 0, np.uint8(ignored), labels["semantics"]),
        "mask_lidar": np.where(unknown > 0, (unknown >= 2).astype(np.uint8), labels["mask_lidar"]),
        "mask_camera": np.where(unknown > 0, (unknown == 3).astype(np.uint8), labels["mask_camera"]),
    }
