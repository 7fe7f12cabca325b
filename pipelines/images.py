"""Camera files to network images: decode, resize, crop."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from schemas.datasets import ImageSpec
from schemas.errors import DataError


def read_image(path: Path, token: str) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a camera file in full.

    Args:
        path: JPEG or PNG file; its EXIF orientation is ignored, as the calibration belongs to the stored pixels.
        token: sample token, for the message.

    Returns:
        (H, W, 3) BGR as OpenCV has it.

    Raises:
        DataError: the file is missing or cannot be decoded; names file and sample.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except FileNotFoundError:
        raise DataError(f"sample {token}: image {path} is missing; restore the file or use --on-error drop") from None
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise DataError(f"sample {token}: image {path} ({data.size} bytes) cannot be decoded; restore the file")
    return image


def resize_and_crop(image: UInt8[np.ndarray, "h w 3"], spec: ImageSpec) -> UInt8[np.ndarray, "H W 3"]:
    """The network's image: area resize to ``spec.resize``, then the crop window of ``spec.crop``.

    Raises:
        DataError: the crop leaves the image.
    """
    left, top, width, height = spec.crop
    size = spec.resized((image.shape[1], image.shape[0]))
    if not spec.crop_fits(size):
        raise DataError(f"an image of {size[0]}x{size[1]} pixels does not hold the crop {spec.crop}")
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])
