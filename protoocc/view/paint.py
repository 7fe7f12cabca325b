"""Which voxel is drawn in which colour: classes, pale outside the camera mask, errors, the ego vehicle."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

from schemas.classes import FREE, IGNORED, OCC3D_COLORS
from schemas.geometry import VoxelGrid

Paint = UInt8[np.ndarray, "X Y Z"]
"""Row of `PALETTE` per voxel; 0 = nothing there."""

PALE: Final = 32
"""Added to the paint of a class (class + 1) outside the camera mask."""
IGNORED_LIGHT: Final = 20
IGNORED_DARK: Final = 21
"""Voxels of unknown class are a chequerboard of these two greys."""
EGO_BODY: Final = 22
EGO_CABIN: Final = 23
CORRECT: Final = 24
WRONG_CLASS: Final = 25
MISSED: Final = 26
INVENTED: Final = 27

EGO_BOXES_M: Final = (
    (EGO_BODY, (-0.8, -0.8, 0.2), (3.2, 0.8, 1.0)),
    (EGO_CABIN, (-0.4, -0.8, 1.0), (2.0, 0.8, 1.6)),
)
"""Paint, lower and upper corner (x, y, z), metres, ego frame: a small car whose rear axle is the origin."""


def _palette() -> UInt8[np.ndarray, "64 3"]:
    palette = np.full((64, 3), 255, dtype=np.uint8)
    palette[1:19] = OCC3D_COLORS
    palette[IGNORED_LIGHT], palette[IGNORED_DARK] = (188, 190, 194), (142, 145, 150)
    palette[EGO_BODY], palette[EGO_CABIN] = (22, 26, 34), (158, 170, 190)
    palette[CORRECT], palette[WRONG_CLASS] = (172, 196, 178), (245, 166, 35)
    palette[MISSED], palette[INVENTED] = (206, 44, 60), (47, 110, 214)
    palette[PALE:] = np.round(0.22 * palette[:32] + 0.78 * np.array([236, 239, 243])).astype(np.uint8)
    return palette


PALETTE: Final[UInt8[np.ndarray, "64 3"]] = _palette()
"""RGB colour of each paint."""


def paint_classes(semantics: UInt8[np.ndarray, "X Y Z"], mask_camera: Bool[np.ndarray, "X Y Z"]) -> Paint:
    """Paint of class labels: full colour inside the camera mask, pale outside.

    Args:
        semantics: class 0..16, 17 free (not painted), 255 ignored (grey chequers inside the camera mask only, because
            unknown space outside it would hide the scene).
        mask_camera: voxels that the cameras see.
    """
    paint = np.where(semantics < FREE, semantics + 1, 0).astype(np.uint8)
    paint[(semantics < FREE) & ~mask_camera] += PALE
    odd = np.indices(semantics.shape).sum(axis=0) % 2 == 1
    ignored = (semantics == IGNORED) & mask_camera
    paint[ignored & odd] = IGNORED_DARK
    paint[ignored & ~odd] = IGNORED_LIGHT
    return paint


def paint_errors(
    semantics: UInt8[np.ndarray, "X Y Z"],
    prediction: UInt8[np.ndarray, "X Y Z"],
    mask_camera: Bool[np.ndarray, "X Y Z"],
) -> Paint:
    """Paint of the comparison inside the camera mask: correct, wrong class, missed, invented.

    Voxels that are free in both, ignored or outside the mask stay empty: the benchmark does not count them as occupied.
    """
    scored = mask_camera & (semantics != IGNORED)
    occupied, predicted = scored & (semantics != FREE), scored & (prediction != FREE)
    paint = np.zeros(semantics.shape, dtype=np.uint8)
    paint[occupied & predicted] = WRONG_CLASS
    paint[occupied & predicted & (semantics == prediction)] = CORRECT
    paint[occupied & ~predicted] = MISSED
    paint[~occupied & predicted] = INVENTED
    return paint


def add_ego(paint: Paint, grid: VoxelGrid) -> Paint:
    """Copy of the paint with the ego vehicle's boxes in voxels that are empty."""
    result = paint.copy()
    for row, lower_m, upper_m in EGO_BOXES_M:
        corners = np.array([lower_m, upper_m]) + 1e-6
        (x0, y0, z0), (x1, y1, z1) = np.clip(grid.voxel_index(corners), 0, grid.shape)
        cells = result[x0:x1, y0:y1, z0:z1]
        cells[cells == 0] = row
    return result
