"""A prediction alone on one sheet, where there is no ground truth: the images, then the scene from above and behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from protoocc.view.cameras import floor_of, perspective_view, top_view
from protoocc.view.images import camera_panel, spatial_order
from protoocc.view.page import Color, LegendEntry, Page, Panel
from protoocc.view.paint import EGO_BODY, FIRST_CLASS, Palette, add_ego, make_palette, paint_classes
from protoocc.view.sample import COLUMN_PX, COLUMNS, WIDE_PX, camera_px
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid


@dataclass(frozen=True, kw_only=True)
class PredictionView:
    """Everything that the sheet of one prediction shows."""

    images: UInt8[np.ndarray, "V H W 3"]
    """RGB."""
    cameras: tuple[str, ...]
    """Name of each image."""
    classes: ClassTable
    prediction: UInt8[np.ndarray, "X Y Z"]
    seen: Bool[np.ndarray, "X Y Z"]
    """Voxels that the cameras see; the others are guesses and are left out."""
    grid: VoxelGrid
    title: tuple[str, ...]
    """Heading and further lines."""


def render_prediction(view: PredictionView) -> UInt8[np.ndarray, "h w 3"]:
    """The sheet as RGB, 1920 pixels wide; the same view gives the same bytes.

    Raises:
        DataError: a predicted class that is not in the table.
    """
    page = Page()
    page.add_heading(view.title)
    order = spatial_order(view.cameras)
    for start in range(0, len(order), COLUMNS):
        page.add_row([_camera(view, index) for index in order[start : start + COLUMNS]])
    shown = np.where(view.seen, view.prediction, np.uint8(view.classes.free))
    paint = add_ego(paint_classes(shown, view.seen, view.classes), view.grid)
    palette = make_palette(view.classes)
    x_m, y_m = (round(cells * view.grid.voxel_size_m) for cells in view.grid.shape[:2])
    size = {"floor_cells": floor_of(paint), "width_px": WIDE_PX, "height_px": COLUMN_PX}
    page.add_row(
        [
            Panel(f"Prediction from above, {x_m} x {y_m} m, forward is up", top_view(paint, palette, COLUMN_PX)),
            Panel(
                "Prediction from behind the vehicle, what the cameras see, grid lines every 10 m",
                perspective_view(paint, palette, view.grid, **size),
            ),
        ]
    )
    page.add_legend("Classes", _legend(shown, view.classes, palette))
    return page.render()


def _camera(view: PredictionView, index: int) -> Panel:
    caption = view.cameras[index].removeprefix("CAM_").replace("_", " ").capitalize()
    return Panel(caption, camera_panel(view.images[index], None, camera_px(view.images)))


def _legend(shown: UInt8[np.ndarray, "X Y Z"], classes: ClassTable, palette: Palette) -> list[LegendEntry]:
    labels = [label for label in np.unique(shown).tolist() if label != classes.free]
    entries = [
        LegendEntry(classes.names[label].replace("_", " "), _color(palette, FIRST_CLASS + label)) for label in labels
    ]
    return [*entries, LegendEntry("ego vehicle", _color(palette, EGO_BODY))]


def _color(palette: Palette, row: int) -> Color:
    red, green, blue = palette[row].tolist()
    return (red, green, blue)
