"""The table of `eval`: a column for each predictor and mask, rows for means, zones, classes and rays; percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from cli.say import answers, name_of, say, shown

if TYPE_CHECKING:
    from rich.table import Table

    from protoocc.eval_report import EvalReport, EvalRow

LEFT_OUT: Final = "all_free"
"""Its mIoU, IoU and RayIoU are 0 by definition; JSON has it."""
MASK_NAMES: Final = {"camera": "camera", "lidar": "LiDAR", "none": "no mask"}
RAYS_COLUMN: Final = "none"
"""RayIoU asks for no mask, so it stands where there is none."""
_MEANS: Final = {
    "mIoU": "miou",
    "IoU (occupied)": "iou",
    "precision (occupied)": "precision",
    "recall (occupied)": "recall",
    "IoU of things": "things_iou",
    "IoU of ground": "ground_iou",
}
_ABSENT: Final = {
    "original": "classes absent from labels and prediction are left out of the mean",
    "labelled": "classes absent from the labels are left out of the mean",
    "zero": "classes absent from labels and prediction count 0 in the mean, but in rings and bands are left out",
}
_ZONE_FIGURES: Final = {"mIoU": "miou", "IoU": "iou"}
_RANGE_FIGURES: Final = {**_ZONE_FIGURES, "precision": "precision", "recall": "recall"}

_Column = tuple["EvalRow", str]
_Line = tuple[str, list["float | None"]]


def print_report(report: EvalReport) -> None:
    """Prints the table and, below it, what one must know to read it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=shown(title_of(report)), box=SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    columns = [(row, mask) for row in report.rows if row.name != LEFT_OUT for mask in MASK_NAMES]
    for row, mask in columns:
        table.add_column("\n".join((*row.name.split("_"), MASK_NAMES[mask])), justify="right", vertical="bottom")
    _add(table, _means(columns), style="bold")
    _add(table, _classes(columns))
    _add(table, _zones(columns, "ranges", "ahead", _RANGE_FIGURES), style="bold")
    _add(table, _zones(columns, "distances", "away"))
    _add(table, _zones(columns, "heights", "high"))
    if report.without_rays is None:
        _add(table, _rays(columns), style="bold")
    out = answers()
    out.print(table)
    for note in _notes(report):
        say(note, "dim", to=out)


def title_of(report: EvalReport) -> str:
    """What every number of a table carries: dataset, split, samples, frames, commit; masks head the columns."""
    frames = "unknown frames" if report.frames is None else f"{report.frames} frame{'s' * (report.frames != 1)}"
    return f"{report.dataset}, split {report.split}: {report.samples} samples, {frames}, {report.code_version}, percent"


def _add(table: Table, lines: Iterator[_Line], style: str = "") -> None:
    rows = list(lines)
    for number, (label, shares) in enumerate(rows, 1):
        table.add_row(shown(label), *map(_percent, shares), style=style, end_section=number == len(rows))


def _means(columns: list[_Column]) -> Iterator[_Line]:
    for label, field in _MEANS.items():
        yield label, [getattr(row.masks[mask], field) for row, mask in columns]


def _classes(columns: list[_Column]) -> Iterator[_Line]:
    for name in columns[0][0].classes:
        yield name, [row.masks[mask].classes[name] for row, mask in columns]


def _zones(
    columns: list[_Column], zones: str, word: str, figures: Mapping[str, str] = _ZONE_FIGURES
) -> Iterator[_Line]:
    """A row of each figure for each ring, band or range."""
    for name in getattr(columns[0][0].masks["camera"], zones):
        for label, field in figures.items():
            shares = [getattr(getattr(row.masks[mask], zones)[name], field) for row, mask in columns]
            yield f"{label} {name} {word}", shares


def _rays(columns: list[_Column]) -> Iterator[_Line]:
    yield "RayIoU", [row.rays.ray_iou if row.rays and mask == RAYS_COLUMN else None for row, mask in columns]
    for threshold in columns[0][0].rays.at if columns[0][0].rays else ():
        shares = [row.rays.at[threshold] if row.rays and mask == RAYS_COLUMN else None for row, mask in columns]
        yield f"RayIoU within {threshold}", shares


def _notes(report: EvalReport) -> Iterator[str]:
    scored = report.checkpoint or report.predictions
    voted = "no baseline" if report.baseline_split is None else f"baseline from split {report.baseline_split}"
    yield (f"{name_of(scored)}; {voted}; {_ABSENT[report.absent]}; docs/metrics.md says what each score means")
    if report.unknown_voxels:
        yield f"{report.unknown_voxels:,} scored voxels are unknown in the predictions and count as free"
    if report.without_rays is not None:
        yield f"No RayIoU: {report.without_rays}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
