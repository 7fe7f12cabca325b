"""Photometric distortion in the order of the host: brightness, contrast, saturation, hue, contrast, channels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from protoocc.augment.config import AugmentConfig

_CHANCE = 0.5
"""Share of images that each part acts on."""


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """One draw of all parts; the defaults change nothing.

    Attributes:
        brightness: added to all colours, 0..255.
        contrast: factor of all colours.
        contrast_first: whether it comes before saturation and hue, or after them.
        saturation: factor of the saturation.
        hue_deg: added to the hue, degrees.
        channels: which of red, green and blue becomes the first, second and third.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue_deg: float = 0.0
    channels: tuple[int, int, int] = (0, 1, 2)


def draw_distortion(config: AugmentConfig, generator: np.random.Generator) -> Distortion:
    """Draws a distortion; the same numbers are drawn whatever is switched on, so that parts do not shift each other."""
    chances = generator.random(6) < _CHANCE
    shares = generator.uniform(-1.0, 1.0, 4)
    red, green, blue = generator.permutation(3).tolist()
    is_swapped = bool(chances[4]) and config.swap_channels
    return Distortion(
        brightness=float(chances[0] * shares[0] * config.brightness),
        contrast=1.0 + float(chances[1] * shares[1] * config.contrast),
        saturation=1.0 + float(chances[2] * shares[2] * config.saturation),
        hue_deg=float(chances[3] * shares[3] * config.hue_deg),
        channels=(red, green, blue) if is_swapped else (0, 1, 2),
        contrast_first=bool(chances[5]),
    )


def distort(image: UInt8[np.ndarray, "H W 3"], draw: Distortion) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB image with a distortion; colours that leave 0..255 are clipped, which the host does not do.

    Args:
        image: RGB.
        draw: what to do; a draw that changes nothing gives the image itself.
    """
    if draw == Distortion(contrast_first=draw.contrast_first):
        return image
    colours = image.astype(np.float32) + np.float32(draw.brightness)
    if draw.contrast_first:
        colours *= np.float32(draw.contrast)
    if draw.saturation != 1.0 or draw.hue_deg != 0.0:
        colours = _turn(np.clip(colours, 0.0, 255.0), draw)
    if not draw.contrast_first:
        colours *= np.float32(draw.contrast)
    rounded = np.rint(np.clip(colours, 0.0, 255.0)).astype(np.uint8)
    return np.ascontiguousarray(rounded[..., list(draw.channels)])


def _turn(colours: np.ndarray, draw: Distortion) -> np.ndarray:
    """Saturation and hue; of float32 colours OpenCV gives hue in degrees and saturation as a share."""
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(draw.hue_deg), np.float32(360.0))
    hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(draw.saturation), 0.0, 1.0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
