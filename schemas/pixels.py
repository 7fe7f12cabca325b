"""What single pixels show: depth images of 16 bits, and the folder of image targets that image features learn from."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Float32, UInt16

DEPTH_STEP_M: Final = 0.01
"""A depth image holds centimetres along the camera's axis; `NO_DEPTH` where nothing was met or measured."""
NO_DEPTH: Final = 0
_DEEPEST: Final = 65_535


def encode_depth(depth_m: Float[np.ndarray, "*any"]) -> UInt16[np.ndarray, "*any"]:
    """Depth image of depths in metres: the nearest centimetre; what is not 0.5 cm to 655.35 m away has no depth."""
    steps = np.rint(np.where(np.isfinite(depth_m), depth_m, 0.0).astype(np.float64) / DEPTH_STEP_M)
    return np.where((steps >= 1) & (steps <= _DEEPEST), steps, NO_DEPTH).astype(np.uint16)


def decode_depth(image: UInt16[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    """Depths in metres of a depth image; 0 where there is none."""
    return image.astype(np.float32) * np.float32(DEPTH_STEP_M)
