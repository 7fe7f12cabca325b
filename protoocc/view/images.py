"""Camera panels: spatial order and thin borders of the pseudo masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

SPATIAL_ORDER: Final = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
BORDER_COLOR: Final = (255, 232, 64)
BORDER_OPACITY: Final = 0.75
PROTOTYPE_OPACITY: Final = 0.6


def spatial_order(cameras: Sequence[str]) -> list[int]:
    """Positions of the cameras in reading order: front row, back row, left to right; unknown names last."""
    rank = {name: position for position, name in enumerate(SPATIAL_ORDER)}
    return sorted(range(len(cameras)), key=lambda view: rank.get(cameras[view], len(rank)))


def camera_panel(
    image: UInt8[np.ndarray, "H W 3"], segment_id: Integer[np.ndarray, "H W"] | None, width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Image at the panel's width with the borders of its pseudo masks, one pixel of the panel wide.

    Args:
        image: RGB.
        segment_id: pseudo mask of each pixel; None draws no borders.
        width_px: width of the panel, pixels; the height keeps the aspect.
    """
    height, width = image.shape[:2]
    height_px = max(1, round(height * width_px / width))
    shrinks = width_px < width
    panel = cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if segment_id is None:
        return panel
    rows = np.arange(height_px) * height // height_px
    columns = np.arange(width_px) * width // width_px
    borders = segment_borders(segment_id[rows[:, None], columns[None, :]])
    mixed = (1 - BORDER_OPACITY) * panel[borders] + BORDER_OPACITY * np.array(BORDER_COLOR)
    panel[borders] = np.rint(mixed).astype(np.uint8)
    return panel


def prototype_panel(
    image: UInt8[np.ndarray, "H W 3"], colors: UInt8[np.ndarray, "rows columns 3"], width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Grey image at the panel's width under the colours of its feature cells.

    Args:
        image: RGB.
        colors: RGB of each feature cell.
        width_px: width of the panel, pixels.
    """
    panel = camera_panel(image, None, width_px)
    grey = panel.mean(axis=2, keepdims=True)
    size = (panel.shape[1], panel.shape[0])
    tint = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    return np.rint(PROTOTYPE_OPACITY * tint + (1 - PROTOTYPE_OPACITY) * grey).astype(np.uint8)


def segment_borders(segment_id: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose right or lower neighbour belongs to another segment."""
    borders = np.zeros(segment_id.shape, dtype=bool)
    borders[:, :-1] |= segment_id[:, :-1] != segment_id[:, 1:]
    borders[:-1] |= segment_id[:-1] != segment_id[1:]
    return borders
