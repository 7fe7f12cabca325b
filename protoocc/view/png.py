"""PNG files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from schemas.files import write_bytes


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB image; a reader or a crash sees either all of the file or nothing.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
    write_bytes(path, encoded.tobytes())
