"""Exact classes and depth of the pixels of a generated world, as `protoocc synth --depth` stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from schemas.classes import OCC3D, SEMANTICKITTI
from schemas.datasets import DatasetSpec
from schemas.errors import raise_machine_fault
from schemas.names import folder_of
from schemas.outside import Source, image_size
from schemas.records import SampleRecord

_CLASS_STEP: Final = 2048
"""A pixel of a class image is class of `OCC3D` (semantickitti: of `SEMANTICKITTI`) * 2048 + number of the thing."""
_REMEDY: Final = "Generate the world again with `protoocc synth --depth`."


def truth_paths(dataset: DatasetSpec, record: SampleRecord) -> list[Path]:
    """Files that `read_truth` reads of a keyframe."""
    folder = _folder(dataset, record)
    return [folder / f"{channel}{suffix}.png" for channel in dataset.cameras for suffix in ("", "-depth")]


def read_truth(
    dataset: DatasetSpec, record: SampleRecord, channel: str
) -> tuple[UInt8[np.ndarray, "h w"], UInt16[np.ndarray, "h w"]]:
    """Class (of the dataset's table; the sky is free) and depth (`schemas.pixels`) of the pixels of a camera's file.

    Raises:
        DataError: a file is missing, damaged or not of the size of the camera's image, or the table lacks a class.
    """
    camera = record.cameras[channel]
    classes = _class_of(dataset)[read_things(dataset, record, channel) // _CLASS_STEP]
    path = _folder(dataset, record) / f"{channel}-depth.png"
    return classes, _read(path, record.token, (camera.height, camera.width))


def has_truth(dataset: DatasetSpec, record: SampleRecord) -> bool:
    """Whether a keyframe comes with exact classes of its pixels, as those of generated worlds do."""
    return _folder(dataset, record).is_dir()


def read_things(dataset: DatasetSpec, record: SampleRecord, channel: str) -> UInt16[np.ndarray, "h w"]:
    """Which thing or surface each pixel of a camera's file shows: a number that no two of them share.

    Raises:
        DataError: the file is missing, damaged or not of the size of the camera's image.
    """
    camera = record.cameras[channel]
    path = _folder(dataset, record) / f"{channel}.png"
    return _read(path, record.token, (camera.height, camera.width))


def _folder(dataset: DatasetSpec, record: SampleRecord) -> Path:
    return dataset.root / "truth" / folder_of(record.scene) / record.token


def _class_of(dataset: DatasetSpec) -> UInt8[np.ndarray, " k"]:
    """Class of the dataset's table for each of the world's; its free space for the world's; others unknown."""
    table, known = np.full(65_536 // _CLASS_STEP, dataset.classes.ignored, np.uint8), dataset.classes
    made = SEMANTICKITTI if dataset.format == "semantickitti" else OCC3D
    for index, name in enumerate(made.names):
        if index == made.free:
            table[index] = known.free
        elif name in known.names:
            table[index] = known.index(name)
    return table


def _read(path: Path, token: str, shape: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    source = Source(f"sample {token}: {path}", _REMEDY)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise_machine_fault(error)
        raise source.error(f"cannot be read ({error.strerror})") from error
    header = image_size(source, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.shape != shape:
        raise source.damaged(f"{header.bits}-bit {(header.height, header.width)}, expected grey 16-bit {shape}")
    return image
