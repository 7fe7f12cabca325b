"""SemanticKITTI: numbers of its labels, its official splits, and the packing of its voxel files.

Sources: `config/semantic-kitti.yaml` and `README.md` of semantic-kitti-api (PRBonn). Files of a scan, all in the flat
order x, y, z with z fastest, which is the order in memory of our (X, Y, Z) arrays:

    .bin .invalid .occluded   one bit per voxel, the first voxel in the highest bit of the first byte
    .label (voxels)           one uint16 per voxel, little-endian: a raw id
    .label (points)           one uint32 per point, little-endian: raw id in the low 16 bits, instance in the high ones
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8, UInt16, UInt32

SEQUENCES: Final = "sequences"
"""Folder of the sequences, in the data set and in submissions."""
UNKNOWN: Final = 255
"""Class of voxels and points that something fills whose class the benchmark does not ask for."""
NO_ID: Final = 254
"""Value of `CLASS_OF_RAW` where no raw id is."""
LEARNING_MAP: Final[Mapping[int, int]] = {
    **{0: 0, 1: UNKNOWN, 52: UNKNOWN, 99: UNKNOWN},
    **{10: 1, 252: 1, 11: 2, 15: 3, 18: 4, 258: 4},
    **{13: 5, 16: 5, 20: 5, 256: 5, 257: 5, 259: 5},
    **{30: 6, 254: 6, 31: 7, 253: 7, 32: 8, 255: 8},
    **{40: 9, 60: 9, 44: 10, 48: 11, 49: 12, 50: 13, 51: 14},
    **{70: 15, 71: 16, 72: 17, 80: 18, 81: 19},
}
"""Raw id of a voxel -> class of `schemas.classes.SEMANTICKITTI`. Raw 0 is empty; the other ids that the official map
sends to 0 (outlier, other structure, other object) are matter of no scored class: 255, as all published networks take
them. Of points, 0 and 1 (unlabelled, outlier) are noise, which the official voxels leave out."""
INVERSE_MAP: Final = (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
"""Class -> raw id, as the benchmark wants submissions."""
NOISE: Final = (0, 1)
"""Raw ids of points that the official voxels leave out."""
FIRST_MOVING: Final = 252
"""Raw ids from here on are things that move."""
KEYFRAME_STEP: Final = 5
"""Every so many scans, from 0 on, have voxels."""
SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(str(number) for number in range(11, 22)),
}
"""Official splits: sequences."""


def token_of(sequence: str, scan: int) -> str:
    """Token of a scan, such as 08-000005."""
    return f"{sequence}-{scan:06}"


def scan_name(token: str) -> str:
    """Name of the files of the scan that a token names, without their suffix, such as 000005."""
    return token.rpartition("-")[2]


def _table(pairs: Mapping[int, int]) -> UInt8[np.ndarray, " 65536"]:
    table = np.full(2**16, NO_ID, dtype=np.uint8)
    table[list(pairs)] = list(pairs.values())
    table.setflags(write=False)
    return table


CLASS_OF_RAW: Final = _table(LEARNING_MAP)
"""`LEARNING_MAP` as an array: (65536,) uint8, `NO_ID` where no raw id is."""


def raw_of_class(labels: UInt8[np.ndarray, "*any"]) -> UInt16[np.ndarray, "*any"]:
    """Raw ids of classes for files of voxels.

    Args:
        labels: classes 0..19; 255 (unknown) becomes raw 1, outlier, which `LEARNING_MAP` sends back to 255.

    Raises:
        ValueError: another value.
    """
    table = np.zeros(256, dtype=np.uint16)
    table[: len(INVERSE_MAP)] = INVERSE_MAP
    table[UNKNOWN] = 1
    bad = labels[(labels >= len(INVERSE_MAP)) & (labels != UNKNOWN)]
    if bad.size:
        raise ValueError(f"{int(bad[0])} is no class of SemanticKITTI (0 to {len(INVERSE_MAP) - 1}, or {UNKNOWN})")
    return table[labels]


def split_label(labels: UInt32[np.ndarray, " n"]) -> tuple[UInt16[np.ndarray, " n"], UInt16[np.ndarray, " n"]]:
    """Raw ids and instances of the values of a file of point labels."""
    return (labels & 0xFFFF).astype(np.uint16), (labels >> 16).astype(np.uint16)


def join_label(raw: UInt16[np.ndarray, " n"], instance: UInt16[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """Values of a file of point labels: the reverse of `split_label`."""
    return raw.astype(np.uint32) | (instance.astype(np.uint32) << 16)


def read_bits(data: bytes, shape: tuple[int, int, int]) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of a `.bin`, `.invalid` or `.occluded` file.

    Args:
        data: the file.
        shape: (X, Y, Z); the number of voxels is a multiple of 8.

    Raises:
        ValueError: the file has another length.
    """
    num_bytes = shape[0] * shape[1] * shape[2] // 8
    if len(data) != num_bytes:
        raise ValueError(f"has {len(data)} bytes, expected {num_bytes}: one bit for each of {shape} voxels")
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8)).astype(bool).reshape(shape)


def write_bits(voxels: Bool[np.ndarray, "X Y Z"]) -> bytes:
    """The file of some voxels: the reverse of `read_bits`.

    Raises:
        ValueError: their number is no multiple of 8.
    """
    if voxels.size % 8:
        raise ValueError(f"{voxels.shape} voxels do not fill whole bytes")
    return np.packbits(voxels.ravel()).tobytes()


def read_voxel_labels(data: bytes, shape: tuple[int, int, int]) -> UInt16[np.ndarray, "X Y Z"]:
    """Raw ids of a `.label` file of voxels.

    Raises:
        ValueError: the file has another length.
    """
    num_bytes = shape[0] * shape[1] * shape[2] * 2
    if len(data) != num_bytes:
        raise ValueError(f"has {len(data)} bytes, expected {num_bytes}: a uint16 for each of {shape} voxels")
    return np.frombuffer(data, dtype="<u2").astype(np.uint16, copy=False).reshape(shape)


def write_voxel_labels(raw: UInt16[np.ndarray, "X Y Z"]) -> bytes:
    """The `.label` file of some voxels: the reverse of `read_voxel_labels`."""
    return raw.astype("<u2").tobytes()
