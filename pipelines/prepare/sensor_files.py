"""Cheap checks of the files behind a record: present, whole, of the size that the tables say; no full decode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.lidar_files import HEAD_VALUES, VALUE_BYTES, check_columns, check_points
from pipelines.point_labels import count_labels
from pipelines.prepare.source import Hole
from schemas.errors import DataError, raise_machine_fault, read_errors
from schemas.outside import has_end
from schemas.records import CameraRecord, LidarRecord, SampleRecord

_ENDS: Final = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""Last bytes of a whole image, by kind; encoders may pad a file behind them."""


def check_files(root: Path, record: SampleRecord) -> list[Hole]:
    """Checks every file that later stages will read for this keyframe.

    Args:
        root: dataset root that the record's paths start at.
        record: one keyframe.

    Returns:
        Sweeps and point labels that are missing or broken: the keyframe can do without them.

    Raises:
        DataError: an image or the LiDAR file of the keyframe is missing, cut or of another size; names file, sample,
            expectation and remedy.
    """
    with read_errors(root):
        for camera in record.cameras.values():
            _check_image(root / camera.path, camera, record.token)
        if record.lidar is not None:
            _check_points(root, record.lidar, record.token)
            _check_head(root / record.lidar.path, record.lidar.point_columns, record.token)
        return list(_holes(root, record))


def _holes(root: Path, record: SampleRecord) -> Iterator[Hole]:
    missing: set[str] = set()
    for sweep in record.sweeps:
        try:
            _check_points(root, sweep, record.token)
        except (DataError, OSError) as error:
            raise_machine_fault(error)
            missing.add(sweep.token)
            yield Hole("sweeps", sweep.token, str(error))
    for lidar in (record.lidar, *record.sweeps):
        if lidar is None or lidar.labels_path is None or lidar.token in missing:
            continue
        try:
            _check_labels(root, lidar, record.token)
        except (DataError, OSError) as error:
            raise_machine_fault(error)
            yield Hole("point_labels", lidar.token, str(error))


def read_image_head(path: Path, token: str) -> tuple[tuple[int, int], str]:
    """(width, height) and kind (JPEG or PNG) of an image file.

    Args:
        path: the file.
        token: sample token, for messages.

    Raises:
        DataError: the file is missing or holds no such image.
    """
    num_bytes = _require(path, token)
    try:
        with Image.open(path) as image:
            size, kind = image.size, image.format
    except PermissionError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise_machine_fault(error)
        raise DataError(f"sample {token}: {path} ({num_bytes} bytes) is no readable image. {_remedy()}") from error
    if kind not in _ENDS:
        raise DataError(f"sample {token}: {path} is a {kind} file; images are JPEG or PNG. Convert it.")
    return size, str(kind)


def _check_image(path: Path, camera: CameraRecord, token: str) -> None:
    size, kind = read_image_head(path, token)
    if size != (camera.width, camera.height):
        raise DataError(
            f"sample {token}: {path} is {size[0]}x{size[1]} pixels, sample_data.json row '{camera.token}' says "
            f"{camera.width}x{camera.height}. Restore the original file or correct the row."
        )
    if not _is_whole(path, kind):
        raise DataError(
            f"sample {token}: {path} ({path.stat().st_size} bytes) is truncated: no {kind} end marker. {_remedy()}"
        )


def _is_whole(path: Path, kind: str) -> bool:
    """Whether an image has its end, at the end of the file or before whatever an encoder padded it with."""
    end = _ENDS[kind]
    with path.open("rb") as file:
        file.seek(-len(end), 2)
        if file.read() == end:
            return True
        file.seek(0)
        return has_end(file.read())


def _check_points(root: Path, lidar: LidarRecord, token: str) -> None:
    path = root / lidar.path
    num_bytes = _require(path, token)
    point_bytes = VALUE_BYTES * lidar.point_columns
    if num_bytes == 0 or num_bytes % point_bytes:
        raise DataError(
            f"sample {token}: {path} has {num_bytes} bytes, expected a multiple of {point_bytes} above 0 "
            f"({lidar.point_columns} float32 per point). {_remedy()}"
        )


def _check_head(path: Path, columns: int, token: str) -> None:
    """Checks the first points of a file; label making checks all points of all sweeps."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(HEAD_VALUES * VALUE_BYTES), "<f4")
    check_columns(f"sample {token}: {path}", head, columns, path.stat().st_size // VALUE_BYTES)
    check_points(f"sample {token}: {path}", head[: len(head) // columns * columns].reshape(-1, columns)[:, :3])


def _check_labels(root: Path, lidar: LidarRecord, token: str) -> None:
    path = root / str(lidar.labels_path)
    num_labels = count_labels(path, token, _require(path, token))
    num_points = (root / lidar.path).stat().st_size // (VALUE_BYTES * lidar.point_columns)
    if num_labels != num_points:
        raise DataError(
            f"sample {token}: {path} has {num_labels} labels, {Path(lidar.path).name} has {num_points} points. "
            f"{_remedy()}"
        )


def _require(path: Path, token: str) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"sample {token}: {path} is missing. {_remedy()}") from None
    except PermissionError:
        raise
    except OSError as error:  # such as a name that is too long
        raise_machine_fault(error)
        raise DataError(f"sample {token}: {path} cannot be read ({error.strerror}). {_remedy()}") from error
    if not path.is_file():
        raise DataError(f"sample {token}: {path} is no file. {_remedy()}")
    return status.st_size


def _remedy() -> str:
    return "Restore the file, or run with --on-error drop to leave out what depends on it."
