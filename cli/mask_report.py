"""Table, page and contact sheet of `protoocc masks --report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.progress import progress_bar
from cli.say import console, name_of, say, shown

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from pipelines.mask_report import MaskFigures
    from pipelines.scheduler import Scheduler
    from pipelines.zarr_io import StoreRows
    from protoocc.view.page import Panel
    from schemas.datasets import DatasetSpec
    from schemas.records import RecordEntry

SHEET_KEYFRAMES = 4
SHEET_CAMERAS = 3
LINES: Mapping[str, str] = {
    "images": "read images",
    "segments": "segments of an image, mean",
    "fewest": "fewest",
    "most": "most",
    "single": "images of one segment",
    "uncovered": "share that no mask covered",
    "size_5": "5 % of the segments are smaller than, pixels",
    "size_50": "half are smaller than, pixels",
    "size_95": "5 % are larger than, pixels",
    "largest": "share of the largest segment",
    "achievable_accuracy": "achievable segmentation accuracy",
    "boundary_recall": "boundary recall",
    "undersegmentation_error": "undersegmentation error",
}
SHARES = ("uncovered", "largest", "achievable_accuracy", "boundary_recall", "undersegmentation_error")


def report_masks(dataset: DatasetSpec, scheduler: Scheduler) -> dict[str, Any]:
    """Measures the masks of all generators that were run, prints the table, writes page and sheet.

    Returns:
        What `--json` prints.
    """
    from pipelines.mask_report import KEYFRAMES, measure_masks
    from protoocc.view import write_png
    from schemas.workfolder import WorkFolder

    measured = []
    for generator in WorkFolder(dataset.work).generators():
        with progress_bar(f"report {generator}") as update:
            measured.append(measure_masks(dataset, generator, scheduler=scheduler, on_progress=update))
    rows = _rows(measured)
    _print(rows, measured)
    sheet = _contact_sheet(dataset, [figures.generator for figures in measured])
    folder = dataset.work / "pictures"
    picture, page = folder / "masks.png", folder / "masks.html"
    write_png(picture, sheet)
    _write_page(page, dataset, rows, measured, sheet)
    say(f"masks, at most {KEYFRAMES} keyframes of each generator: {name_of(page)}, contact sheet {name_of(picture)}")
    return {"report": str(page), "picture": str(picture), "masks": [figures.model_dump() for figures in measured]}


def _rows(measured: Sequence[MaskFigures]) -> list[tuple[str, ...]]:
    """A line of the table for each figure that some generator has."""
    values = [{**figures.model_dump(exclude={"fit"}), **(figures.fit or {})} for figures in measured]
    found = [(name, text) for name, text in LINES.items() if any(name in row for row in values)]
    return [(text, *(_shown(name, row.get(name)) for row in values)) for name, text in found]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in SHARES:
        return f"{100 * value:.2f} %"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _print(rows: Sequence[Sequence[str]], measured: Sequence[MaskFigures]) -> None:
    table = Table(title="pseudo masks, within the network's images", title_justify="left")
    table.add_column("")
    for figures in measured:
        table.add_column(shown(figures.generator), justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if not any(figures.fit for figures in measured):
        say("no exact segments to compare with: only generated worlds have them", "dim")


def _contact_sheet(dataset: DatasetSpec, generators: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Some keyframes with the borders of each generator's segments, a row for each of both."""
    from pipelines.mask_report import chosen_keyframes
    from pipelines.zarr_io import StoreRows
    from protoocc.view.page import Page
    from schemas.workfolder import WorkFolder

    work, page = WorkFolder(dataset.work), Page()
    page.add_heading([f"pseudo masks of {dataset.name}", "borders of the segments; keyframes spread over the dataset"])
    stores = {generator: StoreRows(work.masks(generator), "masks") for generator in generators}
    for entry in chosen_keyframes(work, generators[0], SHEET_KEYFRAMES):
        for generator, store in stores.items():
            page.add_row(_panels(dataset, generator, store, entry))
    return page.render()


def _panels(dataset: DatasetSpec, generator: str, store: StoreRows, entry: RecordEntry) -> list[Panel]:
    from pipelines.images import read_image
    from protoocc.view.images import camera_panel, spatial_order
    from protoocc.view.page import CONTENT_WIDTH, GAP, Panel
    from schemas.network_images import resize_and_crop
    from schemas.records import read_records
    from schemas.workfolder import WorkFolder

    (record,) = read_records(WorkFolder(dataset.work).records, [entry])
    segments = store.read(entry.row, entry.token)["segment_id"]
    panels = []
    for view in spatial_order(dataset.cameras)[:SHEET_CAMERAS]:
        channel = dataset.cameras[view]
        image = read_image(dataset.root / record.cameras[channel].path, record.token)
        network = resize_and_crop(image, dataset.image_of(channel))[..., ::-1]
        width = (CONTENT_WIDTH - (SHEET_CAMERAS - 1) * GAP) // SHEET_CAMERAS
        caption = f"{generator}, {len(set(segments[view].ravel().tolist()))} segments, {channel}, {entry.token[:8]}"
        panels.append(Panel(caption, camera_panel(network, segments[view], width)))
    return panels


def _write_page(
    path: Path,
    dataset: DatasetSpec,
    rows: Sequence[Sequence[str]],
    measured: Sequence[MaskFigures],
    sheet: UInt8[np.ndarray, "h w 3"],
) -> None:
    from protoocc.report.page import page, picture, table
    from schemas.files import write_bytes

    settings = [
        (figures.generator, ", ".join(f"{key} {value}" for key, value in figures.settings.items()))
        for figures in measured
    ]
    sections = {
        "Figures": table(rows, ("", *(figures.generator for figures in measured))),
        "Samples": picture(sheet, "borders of the segments"),
        "Settings": table(settings),
    }
    keyframes = max(figures.keyframes for figures in measured)
    subtitle = f"{dataset.name}, {keyframes} keyframes, what each figure means: docs/masks.md"
    write_bytes(path, page("Pseudo masks", subtitle, sections).encode())
