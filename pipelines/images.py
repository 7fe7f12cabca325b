"""Camera files to members of shards: decode, resize, crop, encode."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from schemas.datasets import DatasetSpec
from schemas.errors import raise_machine_fault
from schemas.images import ImageSpec
from schemas.network_images import decode_photo, network_jpeg, resized_size
from schemas.outside import Source, has_end, image_size
from schemas.records import SampleRecord
from schemas.shards import ImageFile, image_member

_FILL: Final = 128
"""Grey that decoders put where a JPEG holds no pixels."""
_JPEG_END: Final = b"\xff\xd9"
_FILLER: Final = bytes(range(1, 250)) * 16


def read_image(path: Path, token: str, spec: ImageSpec | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a camera file, in full or, where ``spec`` allows it, at a smaller size.

    Args:
        path: JPEG or PNG file, grey, colour or with alpha (left out); its EXIF orientation is ignored, as the
            calibration belongs to the stored pixels.
        token: sample token, for the message.
        spec: what it becomes; None for all pixels.

    Returns:
        (H, W, 3) BGR as OpenCV has it.

    Raises:
        DataError: the file is missing, unreadable, of another kind, cut short (even with its end kept) or cannot be
            decoded; names file and sample.
    """
    return decode_file(_source(path, token), path, spec)


def decode_file(source: Source, path: Path, spec: ImageSpec | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """`read_image` with a message of one's own: ``source`` says what the file is and what to do about it.

    Raises:
        DataError: as `read_image`.
    """
    return _decode(source, _read(source, path), spec)


def _source(path: Path, token: str) -> Source:
    return Source(f"sample {token}: image {path}", "Restore the file, or use --on-error drop.")


def _read(source: Source, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise source.error("is missing") from None
    except OSError as error:
        raise_machine_fault(error)
        raise source.error(f"cannot be read ({error.strerror})") from error


def _decode(source: Source, data: bytes, spec: ImageSpec | None) -> UInt8[np.ndarray, "H W 3"]:
    image = decode_photo(data, image_size(source, data), spec)
    if image is None:
        raise source.damaged(f"{len(data)} bytes that cannot be decoded")
    if not has_end(data) or _has_missing_rows(data, image):
        raise source.damaged(f"{len(data)} bytes, the last rows are missing")
    return image


def _has_missing_rows(data: bytes, image: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether a JPEG ends before its last pixel although its end marker is there.

    Decoders fill what is missing with the middle grey and tell nobody. Where the last pixel has that colour, bytes are
    put before the end marker: a whole image stays as it is, a cut one has them decoded.
    """
    if not data.startswith(b"\xff\xd8") or (np.abs(image[-1, -1].astype(int) - _FILL) > 1).any():
        return False
    end = data.rfind(_JPEG_END)
    return _pixels(data) != _pixels(data[:end] + _FILLER + data[end:])


def _pixels(data: bytes) -> bytes | None:
    """Pixels as Pillow decodes them, which unlike OpenCV prints nothing about bytes that are too many."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.tobytes()
    except (OSError, ValueError, SyntaxError):
        return None


def take_and_crop(image: Shaped[np.ndarray, "h w"], spec: ImageSpec) -> Shaped[np.ndarray, "H W"]:
    """Values of single pixels, such as classes or depth, at the network's image: nearest pixel, nothing is mixed.

    Raises:
        DataError: the crop leaves the image.
    """
    left, top, width, height = spec.crop
    columns, rows = resized_size(image, spec)
    row = ((np.arange(top, top + height) + 0.5) * image.shape[0] / rows).astype(np.int64)
    column = ((np.arange(left, left + width) + 0.5) * image.shape[1] / columns).astype(np.int64)
    return np.ascontiguousarray(image[np.ix_(row, column)])


def camera_members(dataset: DatasetSpec, record: SampleRecord, jpeg_quality: int) -> dict[str, bytes]:
    """The network's images of all cameras of a keyframe, as members of a shard.

    Raises:
        DataError: as `read_image`, or the crop leaves an image.
    """
    members = {}
    for channel in dataset.cameras:
        spec = dataset.image_of(channel)
        image = read_image(dataset.root / record.cameras[channel].path, record.token, spec)
        members[image_member(channel)] = network_jpeg(image, spec, jpeg_quality)
    return members


def camera_files(dataset: DatasetSpec, record: SampleRecord) -> dict[str, ImageFile]:
    """The camera files of a keyframe by channel, from which readers make what `camera_members` gives.

    Raises:
        DataError: as `camera_members`.
    """
    files = {}
    for channel in dataset.cameras:
        name, spec = record.cameras[channel].path, dataset.image_of(channel)
        source = _source(dataset.root / name, record.token)
        data = _read(source, dataset.root / name)
        resized_size(_decode(source, data, spec), spec)
        files[channel] = ImageFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return files
