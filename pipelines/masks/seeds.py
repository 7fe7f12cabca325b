"""SEEDS superpixels at the paper's counts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.masks.config import SeedsConfig, SlicConfig
from pipelines.masks.generator import GeneratorKind
from pipelines.masks.label_map import connected_regions
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


class SeedsGenerator:
    """SEEDS of one count, built once: the same image gives the same labels in any order.

    The image is resized to 800x450 by area and taken in CIELAB, where the histograms (5 bins per channel) separate
    the segments of real frames a little better than BGR or HSV.
    """

    def __init__(self, config: SeedsConfig) -> None:
        """Takes the number of superpixels and passes.

        Raises:
            SetupError: OpenCV lacks ximgproc, or makes another number.
        """
        require_ximgproc()
        requested, levels = REQUESTS[config.segments]
        self.config = config
        self.seeds: Any = cv2.ximgproc.createSuperpixelSEEDS(*SEEDS_SIZE, 3, requested, levels, PRIOR, HISTOGRAM_BINS)
        found = self.seeds.getNumberOfSuperpixels()
        if found != config.segments:
            raise SetupError(
                f"OpenCV {cv2.__version__} makes {found} superpixels where {config.segments} were expected. Install "
                "'opencv-contrib-python>=4.8,<4.12'."
            )

    def generate(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Int32[np.ndarray, "450 800"]]:
        """Label maps of BGR images; all labels 0..segments-1 occur in each, and more where pieces are told apart."""
        return [self._segment(image) for image in images]

    def _segment(self, image: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "450 800"]:
        self.seeds.iterate(to_superpixel_image(image), self.config.iterations)
        labels: Int32[np.ndarray, "450 800"] = self.seeds.getLabels()  # a copy of its own: int32
        return connected_regions(labels) if self.config.connected else labels


def to_superpixel_image(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "450 800 3"]:
    """A BGR image of any size in CIELAB at the size that superpixels are made at."""
    return np.asarray(cv2.cvtColor(cv2.resize(image, SEEDS_SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2LAB))


def superpixel_needs(config: SeedsConfig | SlicConfig) -> dict[str, str]:
    """Checks OpenCV; superpixels read no file of their own."""
    require_ximgproc()
    return {}


SEEDS: Final = GeneratorKind(
    config=SeedsConfig, unit_size=32, needs=superpixel_needs, build=lambda config, size: SeedsGenerator(config)
)
"""Entry of the table of generators."""
