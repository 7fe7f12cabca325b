"""SEEDS superpixels at the paper's counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.masks.config import SeedsConfig
from schemas.errors import SetupError

SEEDS_SIZE: Final = (800, 450)
"""(width, height) that every image gets for SEEDS, before any crop: only 16:9 yields the paper's counts."""

REQUESTS: Final[Mapping[int, tuple[int, int]]] = {299: (350, 2), 91: (128, 3)}
"""Resulting superpixels -> (requested superpixels, levels) at 800x450. The count depends on the geometry alone."""

HISTOGRAM_BINS: Final = 5
PRIOR: Final = 2


def require_ximgproc() -> None:
    """Checks that OpenCV has the contrib modules.

    Raises:
        SetupError: another OpenCV wheel took their place; holds the repair command.
    """
    if not hasattr(cv2, "ximgproc") or not hasattr(cv2.ximgproc, "createSuperpixelSEEDS"):
        raise SetupError(
            "OpenCV has no ximgproc module: another OpenCV package was installed over opencv-contrib-python. Repair it "
            f"with\n  {sys.executable} -m pip install --force-reinstall --no-deps 'opencv-contrib-python>=4.8,<4.12'"
        )


def seeds_segmenter(config: SeedsConfig) -> Callable[[UInt8[np.ndarray, "h w 3"]], Int32[np.ndarray, "450 800"]]:
    """Builds the SEEDS object once and returns a function from an image to its label map.

    The image is resized to 800x450 by area and taken in CIELAB, where the histograms (5 bins per channel) separate
    the segments of real frames a little better than BGR or HSV. The same image gives the same labels in any order.

    Args:
        config: number of superpixels and passes.

    Returns:
        Function: BGR image (h, w, 3) -> labels (450, 800) in 0..segments-1, all of which occur.

    Raises:
        SetupError: OpenCV lacks ximgproc.
    """
    require_ximgproc()
    requested, levels = REQUESTS[config.segments]
    seeds: Any = cv2.ximgproc.createSuperpixelSEEDS(*SEEDS_SIZE, 3, requested, levels, PRIOR, HISTOGRAM_BINS)
    found = seeds.getNumberOfSuperpixels()
    if found != config.segments:
        raise SetupError(
            f"OpenCV {cv2.__version__} makes {found} superpixels where {config.segments} were expected. Install "
            "'opencv-contrib-python>=4.8,<4.12'."
        )

    def segment(image_bgr: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "450 800"]:
        resized = cv2.resize(image_bgr, SEEDS_SIZE, interpolation=cv2.INTER_AREA)
        seeds.iterate(cv2.cvtColor(resized, cv2.COLOR_BGR2LAB), config.iterations)
        return np.array(seeds.getLabels(), dtype=np.int32)

    return segment
