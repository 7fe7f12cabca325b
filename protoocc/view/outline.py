"""Dark lines around voxels whose colour is nearly that of the background, so that no class looks like nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from protoocc.view.paint import FIRST_CLASS, PALE, Paint, Palette
from protoocc.view.raycast import RayBundle, draw_voxels

FAINT_DISTANCE: Final = 32
"""Colours that differ from a background by less than this in every channel, 0..255, get an outline."""
OUTLINE_COLOR: Final = (118, 126, 140)


def draw_outlines(
    picture: UInt8[np.ndarray, "H W 3"],
    paint: Paint,
    palette: Palette,
    rays: RayBundle,
    backgrounds: Sequence[tuple[int, int, int]],
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with a line of one pixel inside the silhouette of faint voxels; unchanged where there are none.

    Args:
        picture: of these voxels.
        paint: palette row per voxel, 0 = empty.
        palette: RGB of each paint.
        rays: that the picture was drawn with.
        backgrounds: colours of what shows where no voxel is.
    """
    faint = _faint_rows(palette, backgrounds)
    if not faint[paint].any():
        return picture
    markers = np.zeros((len(palette), 3), np.uint8)
    markers[:, 0] = 255
    markers[faint, 1] = 255
    marked = draw_voxels(paint, markers, rays, np.zeros_like(picture))
    empty = np.pad((marked[..., 0] == 0).astype(np.uint8), 1, constant_values=1)
    beside_empty = cv2.dilate(empty, np.ones((3, 3), np.uint8))[1:-1, 1:-1] != 0
    outlined = picture.copy()
    outlined[beside_empty & (marked[..., 1] != 0)] = OUTLINE_COLOR
    return outlined


def _faint_rows(palette: Palette, backgrounds: Sequence[tuple[int, int, int]]) -> Bool[np.ndarray, 512]:
    """Classes whose full colour is nearly a background; what is pale on purpose follows its full paint."""
    distances = np.abs(palette[:PALE, None].astype(np.int64) - np.array(backgrounds)).max(axis=2)
    faint = distances.min(axis=1) < FAINT_DISTANCE
    faint[:FIRST_CLASS] = False
    return np.tile(faint, 2)
