"""Cheap checks of the files behind a record: present, whole, of the size that the tables say; no full decode."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from pipelines.point_labels import PANOPTIC_SUFFIX, read_categories
from schemas.errors import DataError
from schemas.records import CameraRecord, LidarRecord, SampleRecord

VALUE_BYTES: Final = 4
"""Points are float32."""
_ENDS: Final = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""Last bytes of a whole image, by kind."""


def check_files(root: Path, record: SampleRecord) -> None:
    """Checks every file that later stages will read for this keyframe.

    Args:
        root: dataset root that the record's paths start at.
        record: one keyframe.

    Raises:
        DataError: a file is missing, cut or of another size; names file, sample, expectation and remedy.
    """
    for camera in record.cameras.values():
        _check_image(root / camera.path, camera, record.token)
    for lidar in (record.lidar, *record.sweeps) if record.lidar is not None else ():
        _check_points(root, lidar, record.token)


def _check_image(path: Path, camera: CameraRecord, token: str) -> None:
    _require(path, token)
    try:
        with Image.open(path) as image:
            size, kind = image.size, image.format
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(
            f"sample {token}: {path} ({path.stat().st_size} bytes) is no readable image. {_remedy()}"
        ) from error
    if size != (camera.width, camera.height):
        raise DataError(
            f"sample {token}: {path} is {size[0]}x{size[1]} pixels, sample_data.json row '{camera.token}' says "
            f"{camera.width}x{camera.height}. Restore the original file or correct the row."
        )
    end = _ENDS.get(kind or "", b"")
    if not _last_bytes(path, len(end)).endswith(end):
        raise DataError(
            f"sample {token}: {path} ({path.stat().st_size} bytes) is truncated: no {kind} end marker. {_remedy()}"
        )


def _check_points(root: Path, lidar: LidarRecord, token: str) -> None:
    path = root / lidar.path
    num_bytes = _require(path, token)
    point_bytes = VALUE_BYTES * lidar.point_columns
    if num_bytes == 0 or num_bytes % point_bytes:
        raise DataError(
            f"sample {token}: {path} has {num_bytes} bytes, expected a multiple of {point_bytes} above 0 "
            f"({lidar.point_columns} float32 per point). {_remedy()}"
        )
    if lidar.labels_path is None:
        return
    labels = root / lidar.labels_path
    num_labels = _require(labels, token)
    if labels.suffix == PANOPTIC_SUFFIX:
        num_labels = len(read_categories(labels, token))
    if num_labels != num_bytes // point_bytes:
        raise DataError(
            f"sample {token}: {labels} has {num_labels} labels, {path.name} has {num_bytes // point_bytes} points. "
            f"{_remedy()}"
        )


def _require(path: Path, token: str) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"sample {token}: {path} is missing. {_remedy()}") from None


def _last_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-count, 2)
        return file.read()


def _remedy() -> str:
    return "Restore the file, or run with --on-error drop to leave the sample out."
