"""The network's image of a camera file, as `pack` stores it and as readers of a set without images make it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import UInt8

from schemas.errors import DataError
from schemas.images import ImageSpec
from schemas.outside.images import ImageHeader

_FLAGS: Final = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_photo(data: bytes, header: ImageHeader, spec: ImageSpec | None) -> UInt8[np.ndarray, "h w 3"] | None:
    """Pixels of a camera file, BGR, as its calibration has them: an EXIF orientation is ignored.

    Args:
        data: the file, JPEG or PNG.
        header: its own.
        spec: what it becomes, which may allow a JPEG to be decoded at a smaller size; None for all pixels.

    Returns:
        None where it cannot be decoded.
    """
    is_jpeg = data.startswith(b"\xff\xd8")
    factor = spec.reduction((header.width, header.height)) if spec is not None and is_jpeg else 1
    return cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[factor] | cv2.IMREAD_IGNORE_ORIENTATION)


def network_jpeg(image: UInt8[np.ndarray, "h w 3"], spec: ImageSpec, quality: int) -> bytes:
    """The network's image as a JPEG file.

    Args:
        image: of the camera, BGR.
        spec: resize and crop.
        quality: of the JPEG, 1 to 100.

    Raises:
        DataError: the crop leaves the image.
    """
    return encode_image(".jpg", resize_and_crop(image, spec), [cv2.IMWRITE_JPEG_QUALITY, quality])


def resize_and_crop(image: UInt8[np.ndarray, "h w 3"], spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
    """The network's image: area resize to ``spec.resize``, then the crop window of ``spec.crop``.

    Raises:
        DataError: the crop leaves the image.
    """
    left, top, width, height = spec.crop
    resized = cv2.resize(image, resized_size(image, spec), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def resized_size(image: np.ndarray, spec: ImageSpec) -> tuple[int, int]:
    """(width, height) of an image before its crop.

    Raises:
        DataError: the crop leaves the image.
    """
    size = spec.resized((image.shape[1], image.shape[0]))
    if not spec.crop_fits(size):
        raise DataError(f"an image of {size[0]}x{size[1]} pixels does not hold the crop {spec.crop}")
    return size


def encode_image(suffix: str, image: np.ndarray, options: Sequence[int]) -> bytes:
    """An image as a file of its own; ``options`` are OpenCV's.

    Raises:
        DataError: OpenCV cannot write it.
    """
    ok, data = cv2.imencode(suffix, image, options)
    if not ok:
        raise DataError(f"cannot encode a {suffix} of shape {image.shape}, dtype {image.dtype}")
    return bytes(data.tobytes())
