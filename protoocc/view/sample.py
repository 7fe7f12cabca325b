"""One sample on one sheet: images with pseudo masks, ground truth and prediction from above and in perspective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from protoocc.view.cameras import floor_of, perspective_view, top_view
from protoocc.view.images import camera_panel, prototype_panel, spatial_order
from protoocc.view.page import CONTENT_WIDTH, GAP, Color, LegendEntry, Page, Panel
from protoocc.view.paint import (
    CORRECT,
    EGO_BODY,
    FIRST_CLASS,
    IGNORED_DARK,
    IGNORED_LIGHT,
    INVENTED,
    MISSED,
    PALE,
    WRONG_CLASS,
    Paint,
    Palette,
    add_ego,
    make_palette,
    paint_classes,
    paint_errors,
)
from schemas.classes import ClassTable
from schemas.errors import DataError
from schemas.geometry import VoxelGrid

COLUMNS = 3
COLUMN_PX = (CONTENT_WIDTH - (COLUMNS - 1) * GAP) // COLUMNS
HALF_PX = (CONTENT_WIDTH - GAP) // 2
WIDE_PX = CONTENT_WIDTH - COLUMN_PX - GAP
LONE_PX = 560
"""Greatest height of the image of a camera that has no others beside it."""


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """Everything that the sheet of one sample shows."""

    images: UInt8[np.ndarray, "V H W 3"]
    """RGB."""
    cameras: tuple[str, ...]
    """Channel name of each image, such as CAM_FRONT."""
    classes: ClassTable
    """Table of ground truth and prediction."""
    segment_id: Integer[np.ndarray, "V H W"] | None
    """Pseudo mask of each pixel; None draws no borders."""
    semantics: UInt8[np.ndarray, "X Y Z"]
    """Ground truth: class of each voxel, which may be unknown."""
    mask_camera: Bool[np.ndarray, "X Y Z"]
    """Voxels that the cameras see; the others are drawn pale."""
    prediction: UInt8[np.ndarray, "X Y Z"] | None
    """Predicted class of each voxel; None (before training) shows only the ground truth."""
    grid: VoxelGrid
    prototypes: UInt8[np.ndarray, "V h w 3"] | None = None
    """Colour of the nearest prototype of each feature cell; None draws no such row."""
    title: tuple[str, ...]
    """Heading and further lines, see `sample_title`."""

    def __post_init__(self) -> None:
        volumes = {"semantics": self.semantics, "mask_camera": self.mask_camera, "prediction": self.prediction}
        for name, volume in volumes.items():
            if volume is not None and volume.shape != self.grid.shape:
                raise DataError(
                    f"{self.title[0] if self.title else 'sample'}: '{name}' has shape {volume.shape}, the grid of the "
                    f"dataset {self.grid.shape}. Use data and checkpoint of the same `grid` in datasets.yaml."
                )
        if len(self.cameras) != len(self.images):
            raise DataError(f"{len(self.images)} images, but {len(self.cameras)} camera names: {self.cameras}")


def sample_title(
    *, dataset: str, scene: str, frame: int, token: str, scores: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """Heading of a sheet.

    Args:
        dataset: name of the entry in `datasets.yaml`.
        scene: scene name.
        frame: number of the keyframe within its scene.
        token: sample token.
        scores: metric name -> share 0..1 of this sample within the camera mask, shown in percent.
    """
    lines = (f"{scene}  ·  frame {frame}", f"dataset {dataset}  ·  sample {token}")
    if not scores:
        return lines
    figures = "  ·  ".join(f"{name} {100 * share:.1f} %" for name, share in scores.items())
    return (*lines, f"{figures}  (this sample, within the camera mask)")


def render_sample(view: SampleView) -> UInt8[np.ndarray, "h w 3"]:
    """The sheet as RGB, 1920 pixels wide; the same view gives the same bytes."""
    page = Page()
    page.add_heading(view.title)
    order = spatial_order(view.cameras)
    for start in range(0, len(order), COLUMNS):
        page.add_row([_camera(view, index) for index in order[start : start + COLUMNS]])
        if view.prototypes is not None:
            page.add_row([_prototypes(view, index) for index in order[start : start + COLUMNS]])
    palette = make_palette(view.classes)
    truth = add_ego(paint_classes(view.semantics, view.mask_camera, view.classes), view.grid)
    if view.prediction is None:
        _add_truth(page, view, truth, palette)
    else:
        _add_comparison(page, view, truth, view.prediction, palette)
    return page.render()


def _camera(view: SampleView, index: int) -> Panel:
    caption = view.cameras[index].removeprefix("CAM_").replace("_", " ").capitalize()
    segment_id = None if view.segment_id is None else view.segment_id[index]
    return Panel(caption, camera_panel(view.images[index], segment_id, camera_px(view.images)))


def camera_px(images: UInt8[np.ndarray, "V H W 3"]) -> int:
    """Width of a camera's panel: a column; a camera alone fills the page unless that makes it too high."""
    count, height, width, _ = images.shape
    return COLUMN_PX if count > 1 else max(COLUMN_PX, min(CONTENT_WIDTH, LONE_PX * width // height))


def _prototypes(view: SampleView, index: int) -> Panel:
    colors = view.prototypes[index] if view.prototypes is not None else view.images[index]
    return Panel(
        "Nearest prototype of each feature cell", prototype_panel(view.images[index], colors, camera_px(view.images))
    )


def _add_truth(page: Page, view: SampleView, truth: Paint, palette: Palette) -> None:
    size = {"floor_cells": floor_of(truth), "width_px": WIDE_PX, "height_px": COLUMN_PX}
    page.add_row(
        [
            Panel(f"Ground truth from above, {_extent(view.grid)}", top_view(truth, palette, COLUMN_PX)),
            Panel(
                "Ground truth from behind the vehicle, grid lines every 10 m",
                perspective_view(truth, palette, view.grid, **size),
            ),
        ]
    )
    page.add_legend("Classes", _class_legend(view, palette))


def _add_comparison(
    page: Page, view: SampleView, truth: Paint, prediction: UInt8[np.ndarray, "X Y Z"], palette: Palette
) -> None:
    scored = np.where(view.mask_camera, prediction, np.uint8(view.classes.free))
    predicted = add_ego(paint_classes(scored, view.mask_camera, view.classes), view.grid)
    errors = paint_errors(view.semantics, prediction, view.mask_camera, view.classes)
    from_above = {
        f"Ground truth from above, {_extent(view.grid)}": truth,
        "Prediction from above, within the camera mask": predicted,
        "Errors from above, within the camera mask": add_ego(errors, view.grid),
    }
    page.add_row([Panel(caption, top_view(paint, palette, COLUMN_PX)) for caption, paint in from_above.items()])
    size = {"floor_cells": floor_of(truth), "width_px": HALF_PX, "height_px": round(HALF_PX * 0.58)}
    from_behind = {
        "Ground truth from behind the vehicle, grid lines every 10 m": truth,
        "Prediction from behind the vehicle, within the camera mask": predicted,
    }
    page.add_row(
        [Panel(caption, perspective_view(paint, palette, view.grid, **size)) for caption, paint in from_behind.items()]
    )
    page.add_legend("Classes", _class_legend(view, palette))
    page.add_legend("Errors", _error_legend(errors, palette))


def _extent(grid: VoxelGrid) -> str:
    x_m, y_m = (round(cells * grid.voxel_size_m) for cells in grid.shape[:2])
    return f"{x_m} x {y_m} m, forward is up"


def _class_legend(view: SampleView, palette: Palette) -> list[LegendEntry]:
    table, labels = view.classes, set(np.unique(view.semantics).tolist())
    if view.prediction is not None:
        labels |= set(np.unique(view.prediction).tolist())
    entries = [
        LegendEntry(name.replace("_", " "), _color(palette, FIRST_CLASS + label))
        for label, name in enumerate(table.names)
        if label in labels and label != table.free
    ]
    if table.ignored in labels:
        greys = _color(palette, IGNORED_LIGHT), _color(palette, IGNORED_DARK)
        entries.append(LegendEntry("unknown class (ignored)", *greys))
    pale = _color(palette, PALE + FIRST_CLASS + table.index(table.occupied[-1]))
    entries.append(LegendEntry("pale: outside the camera mask", pale))
    entries.append(LegendEntry("ego vehicle", _color(palette, EGO_BODY)))
    return entries


def _error_legend(errors: Paint, palette: Palette) -> list[LegendEntry]:
    counts = {row: int(np.count_nonzero(errors == row)) for row in (CORRECT, WRONG_CLASS, MISSED, INVENTED)}
    total = max(1, sum(counts.values()))
    names = {CORRECT: "correct", WRONG_CLASS: "wrong class", MISSED: "missed", INVENTED: "invented"}
    return [
        LegendEntry(f"{names[row]} {100 * count / total:.1f} %", _color(palette, row)) for row, count in counts.items()
    ]


def _color(palette: Palette, row: int) -> Color:
    red, green, blue = palette[row].tolist()
    return (red, green, blue)
