"""Occ3D label files: read, check, compare with the grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from schemas.classes import FREE, IGNORED
from schemas.errors import DataError
from schemas.outside import Source, read_bytes, read_npz
from schemas.outside.limits import MEMBER_FACTOR, MEMBER_SLACK
from schemas.records import SampleRecord

LABEL_ARRAYS: Final = ("semantics", "mask_lidar", "mask_camera")
_HIGHEST: Final = {"semantics": FREE, "mask_lidar": 1, "mask_camera": 1, "unknown": 3}
_WIDEST: Final = 8
"""Bytes of a value: wider numbers than uint8 are read, so that their type can be told."""

Labels = dict[str, UInt8[np.ndarray, "X Y Z"]]
"""`semantics`, `mask_lidar` and `mask_camera` of one keyframe."""


def label_file(gts: Path, record: SampleRecord) -> Path:
    """Where a folder of Occ3D labels has those of a keyframe."""
    return gts / record.scene / record.token / "labels.npz"


def read_labels(path: Path, token: str, shape: tuple[int, int, int]) -> Labels:
    """Reads one `labels.npz`.

    Args:
        path: the file, `<labels>/<scene>/<token>/labels.npz`.
        token: sample token, for messages.
        shape: voxels along x, y, z of the dataset's grid.

    Returns:
        `semantics` with classes 0..16 and 17 free, `mask_lidar` and `mask_camera` with 1 = observed, all uint8. Files
        that this program wrote may also hold 255, see `pipelines.occupancy.export`.

    Raises:
        DataError: the file is missing, cut short, or holds other arrays, another shape, dtype or value.

    Source: Occ3D-nuScenes (CVPR 2023 challenge), axis order x, y, z in the ego frame of the LIDAR_TOP keyframe.
    """
    where = f"{path} (sample {token})"
    source, largest = Source(where, "Check `labels` and `root` in datasets.yaml, or copy it again."), math.prod(shape)
    data = read_bytes(source, path, len(_HIGHEST) * MEMBER_FACTOR * _WIDEST * largest + MEMBER_SLACK)
    labels = read_npz(source, data, _HIGHEST, _WIDEST * largest)
    missing = [name for name in LABEL_ARRAYS if name not in labels]
    if missing:
        raise DataError(f"{where}: array '{missing[0]}' is missing; expected {', '.join(LABEL_ARRAYS)}")
    for name, values in labels.items():
        _check(where, name, values, shape)
    return _restore_unknown(labels)


def _restore_unknown(labels: Labels) -> Labels:
    """Gives back class 255 and its masks where `encode_labels` of this program had to hide them."""
    if "unknown" not in labels:
        return labels
    unknown = labels.pop("unknown")
    return {
        "semantics": np.where(unknown > 0, np.uint8(IGNORED), labels["semantics"]),
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
