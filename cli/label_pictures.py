"""Pictures of label comparisons and checks: sheets put together from the drawing parts of `protoocc.view`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from protoocc.view import write_png
from protoocc.view.cameras import top_view
from protoocc.view.page import LegendEntry, Page, Panel
from protoocc.view.paint import (
    CORRECT,
    FIRST_CLASS,
    IGNORED_DARK,
    INVENTED,
    MISSED,
    WRONG_CLASS,
    Palette,
    add_ego,
    class_paint,
    make_palette,
    paint_classes,
    paint_errors,
)

if TYPE_CHECKING:
    from pipelines.occupancy.check import Check
    from pipelines.occupancy.compare_folder import Comparison
    from schemas.classes import ClassTable
    from schemas.datasets import DatasetSpec
    from schemas.records import SampleRecord

_PANEL_PX = 600
_COLUMNS = 3
_OVERLAY = 0.6
"""Share of the class's colour in a pixel."""
_DIFFERENCES = {
    CORRECT: "same class",
    WRONG_CLASS: "another class",
    MISSED: "only in the folder",
    INVENTED: "only in the store",
}


def draw_differences(dataset: DatasetSpec, folder: Path, comparison: Comparison, path: Path) -> None:
    """Writes a sheet of the keyframe that agrees least: both labels and their differences from above."""
    from pipelines.occupancy.compare_folder import gts_of
    from pipelines.occupancy.occ3d import label_file, read_labels
    from pipelines.occupancy.stored import read_row

    row = comparison.worst_row
    record, ours = read_row(dataset.work, row)
    theirs = read_labels(label_file(gts_of(folder), record), record.token, dataset)
    classes, palette = dataset.classes, make_palette(dataset.classes)
    errors = paint_errors(theirs["semantics"], ours["semantics"], theirs["mask_lidar"] == 1, classes)
    paints = {
        "The store's labels; pale: unobserved": paint_classes(ours["semantics"], ours["mask_lidar"] == 1, classes),
        f"Labels of {folder.name}": paint_classes(theirs["semantics"], theirs["mask_lidar"] == 1, classes),
        "Differences within the folder's mask_lidar": errors,
    }
    page = Page()
    figures = " · ".join(f"{name} {value:.3f}" for name, value in comparison.per_row[row].items())
    page.add_heading((f"{record.scene} · frame {record.frame}", f"the keyframe that agrees least: {figures}"))
    drawn = {text: top_view(add_ego(paint, dataset.grid), palette, _PANEL_PX) for text, paint in paints.items()}
    page.add_row([Panel(text, picture) for text, picture in drawn.items()])
    page.add_legend(
        "Differences",
        [_entry(f"{name}: {(errors == row).sum()}", palette, row) for row, name in _DIFFERENCES.items()],
    )
    page.add_legend("Classes", _classes(classes, ours["semantics"], theirs["semantics"]))
    write_png(path, page.render())


def draw_first_hits(dataset: DatasetSpec, check: Check, path: Path) -> None:
    """Writes a sheet of one keyframe: each image under the class of the first occupied voxel behind each pixel.

    It is the keyframe with the median share of right box pixels.
    """
    from pipelines.occupancy.grid_frame import in_grid_frame
    from pipelines.occupancy.stored import read_row

    record, labels = read_row(dataset.work, check.typical_row)
    record = in_grid_frame(record, dataset.grid)
    page = Page()
    title = "colour: class of the first occupied voxel behind each pixel; none where the rays meet nothing"
    page.add_heading((f"{record.scene} · frame {record.frame}", title))
    panels = [
        Panel(channel, _first_hit_panel(dataset, record, channel, labels["semantics"])) for channel in dataset.cameras
    ]
    for start in range(0, len(panels), _COLUMNS):
        page.add_row(panels[start : start + _COLUMNS])
    page.add_legend("Classes", _classes(dataset.classes, labels["semantics"]))
    write_png(path, page.render())


def _first_hit_panel(
    dataset: DatasetSpec, record: SampleRecord, channel: str, semantics: UInt8[np.ndarray, "X Y Z"]
) -> UInt8[np.ndarray, "h w 3"]:
    import cv2

    from pipelines.images import read_image
    from pipelines.occupancy.first_hit import camera_rays, labels_along

    camera = record.cameras[channel]
    view = camera_rays(record, channel, camera.width / _PANEL_PX)
    labels, _ = labels_along(semantics, dataset.grid, view.origin, view.directions, free=dataset.classes.free)
    image = read_image(dataset.root / camera.path, record.token)[..., ::-1]
    small = cv2.resize(image, view.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    paint = class_paint(labels, dataset.classes).reshape(view.shape)
    share = np.where(paint == 0, 0.0, _OVERLAY)[..., None]
    return np.rint(small * (1 - share) + make_palette(dataset.classes)[paint] * share).astype(np.uint8)


def _classes(classes: ClassTable, *volumes: UInt8[np.ndarray, "X Y Z"]) -> list[LegendEntry]:
    found = {int(label) for volume in volumes for label in np.unique(volume)}
    palette = make_palette(classes)
    entries = [
        _entry(name.replace("_", " "), palette, FIRST_CLASS + label)
        for label, name in enumerate(classes.names)
        if label in found and label != classes.free
    ]
    return [*entries, _entry("unknown", palette, IGNORED_DARK)] if classes.ignored in found else entries


def _entry(name: str, palette: Palette, paint: int) -> LegendEntry:
    red, green, blue = palette[paint].tolist()
    return LegendEntry(name, (red, green, blue))
