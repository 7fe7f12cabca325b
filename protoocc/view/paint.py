"""Which voxel is drawn in which colour: classes, pale outside the camera mask, errors, the ego vehicle."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from protoocc.labels import check_labels
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid, road_height_m

Paint = UInt16[np.ndarray, "X Y Z"]
"""Row of the palette per voxel; 0 = nothing there."""

Palette = UInt8[np.ndarray, "512 3"]
"""RGB of each paint: 0 nothing, the fixed ones below, then the classes, and everything once more in pale."""

IGNORED_LIGHT: Final = 1
IGNORED_DARK: Final = 2
"""Voxels of unknown class are a chequerboard of these two greys."""
EGO_BODY: Final = 3
EGO_CABIN: Final = 4
CORRECT: Final = 5
WRONG_CLASS: Final = 6
MISSED: Final = 7
INVENTED: Final = 8
FIRST_CLASS: Final = 16
"""Added to a class; a table has at most 200."""
PALE: Final = 256
"""Added to the paint of a class outside the camera mask."""

_FIXED: Final = {
    IGNORED_LIGHT: (188, 190, 194),
    IGNORED_DARK: (142, 145, 150),
    EGO_BODY: (22, 26, 34),
    EGO_CABIN: (158, 170, 190),
    CORRECT: (172, 196, 178),
    WRONG_CLASS: (245, 166, 35),
    MISSED: (206, 44, 60),
    INVENTED: (47, 110, 214),
}
_PALE_COLOR: Final = (236, 239, 243)
_PALE_SHARE: Final = 0.22
"""Share of a paint's own colour in its pale one."""

EGO_BOXES_M: Final = (
    (EGO_BODY, (-0.8, -0.8, 0.2), (3.2, 0.8, 1.0)),
    (EGO_CABIN, (-0.4, -0.8, 1.0), (2.0, 0.8, 1.6)),
)
"""Paint, lower and upper corner (x, y, z), metres, ego frame on the road: a small car whose rear axle is the origin."""


def make_palette(classes: ClassTable) -> Palette:
    """Colours of all paints for the classes of a table."""
    palette = np.full((2 * PALE, 3), 255, dtype=np.uint8)
    for row, color in _FIXED.items():
        palette[row] = color
    palette[FIRST_CLASS : FIRST_CLASS + classes.num_classes] = classes.palette
    pale = _PALE_SHARE * palette[:PALE] + (1 - _PALE_SHARE) * np.array(_PALE_COLOR)
    palette[PALE:] = np.round(pale).astype(np.uint8)
    return palette


def class_paint(labels: UInt8[np.ndarray, "*any"], classes: ClassTable) -> UInt16[np.ndarray, "*any"]:
    """Full paint of labels; 0 for free ones, the darker grey for unknown ones.

    Raises:
        DataError: a label that is not in the table: nothing is drawn as if it were not there.
    """
    check_labels("a picture's volume", labels, classes, may_be_unknown=True)
    paint = labels.astype(np.uint16) + np.uint16(FIRST_CLASS)
    paint[labels == classes.free] = 0
    paint[labels == classes.ignored] = IGNORED_DARK
    return paint


def paint_classes(
    semantics: UInt8[np.ndarray, "X Y Z"], mask_camera: Bool[np.ndarray, "X Y Z"], classes: ClassTable
) -> Paint:
    """Paint of class labels: full colour inside the camera mask, pale outside.

    Args:
        semantics: class of each voxel. Free ones are not painted, unknown ones are grey chequers inside the camera mask
            only, because unknown space outside it would hide the scene.
        mask_camera: voxels that the cameras see.
        classes: table of the labels.

    Raises:
        DataError: a label that is not in the table.
    """
    paint = class_paint(semantics, classes)
    paint[(paint >= FIRST_CLASS) & ~mask_camera] += np.uint16(PALE)
    unknown = semantics == classes.ignored
    paint[unknown & ~mask_camera] = 0
    paint[unknown & mask_camera & ~_odd_places(semantics.shape)] = IGNORED_LIGHT
    return paint


def _odd_places(shape: tuple[int, ...]) -> Bool[np.ndarray, "X Y Z"]:
    places: Int64[np.ndarray, "3 X Y Z"] = np.indices(shape)
    return places.sum(axis=0) % 2 == 1


def paint_errors(
    semantics: UInt8[np.ndarray, "X Y Z"],
    prediction: UInt8[np.ndarray, "X Y Z"],
    mask_camera: Bool[np.ndarray, "X Y Z"],
    classes: ClassTable,
) -> Paint:
    """Paint of the comparison inside the camera mask: correct, wrong class, missed, invented.

    Voxels that are free in both, unknown or outside the mask stay empty: the benchmark does not count them as occupied.
    """
    scored = mask_camera & (semantics != classes.ignored)
    occupied, predicted = scored & classes.is_occupied(semantics), scored & classes.is_occupied(prediction)
    paint = np.zeros(semantics.shape, dtype=np.uint16)
    paint[occupied & predicted] = WRONG_CLASS
    paint[occupied & predicted & (semantics == prediction)] = CORRECT
    paint[occupied & ~predicted] = MISSED
    paint[~occupied & predicted] = INVENTED
    return paint


def add_ego(paint: Paint, grid: VoxelGrid) -> Paint:
    """Copy of the paint with the ego vehicle's boxes, as far as the grid has them, in voxels that are empty."""
    result = paint.copy()
    for row, lower_m, upper_m in EGO_BOXES_M:
        corners = np.array([lower_m, upper_m]) + [0.0, 0.0, road_height_m(grid)] + 1e-6
        (x0, y0, z0), (x1, y1, z1) = np.clip(grid.voxel_index(corners), 0, grid.shape)
        cells = result[x0:x1, y0:y1, z0:z1]
        cells[cells == 0] = row
    return result
