"""SLIC superpixels (OpenCV): a second baseline without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.masks.config import SlicConfig
from pipelines.masks.generator import GeneratorKind
from pipelines.masks.seeds import superpixel_needs, to_superpixel_image


class SlicGenerator:
    """Simple linear iterative clustering of the image at 800x450 in CIELAB; every segment is connected."""

    def __init__(self, config: SlicConfig) -> None:
        """Takes the size of the superpixels and the weight of distances."""
        self.config = config

    def generate(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Int32[np.ndarray, "450 800"]]:
        """Label maps of BGR images; how many labels one has depends on the image."""
        return [self._segment(image) for image in images]

    def _segment(self, image: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "450 800"]:
        slic = cv2.ximgproc.createSuperpixelSLIC(
            to_superpixel_image(image), cv2.ximgproc.SLIC, self.config.region_px, self.config.ruler
        )
        slic.iterate(self.config.iterations)
        slic.enforceLabelConnectivity(self.config.smallest_percent)
        labels = np.asarray(slic.getLabels())
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


SLIC: Final = GeneratorKind(
    config=SlicConfig, unit_size=32, needs=superpixel_needs, build=lambda config, size: SlicGenerator(config)
)
"""Entry of the table of generators."""
