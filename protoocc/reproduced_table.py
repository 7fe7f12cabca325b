"""One table of the paper as it came out on a generated world: means, deviations, differences, as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Final

from pydantic import Field

from protoocc.ablations import rows_of
from protoocc.reproduce import Figures, SeedResult
from schemas.settings import Frozen, flatten

_FIGURES: Final = ("miou", "iou", "things_iou")
_OCC3D: Final = "ProtoOcc-Small on Occ3D-nuScenes val"
_PUBLISHED: Final = {"table2": "the Small sizes on SemanticKITTI val"}
"""What the paper trained and where it scored, by table, if it is not `_OCC3D`."""
_NOT_THE_SAME: Final = "order and differences may be compared, not the figures themselves."


class Spread(Frozen):
    """Mean and spread over the seeds, shares 0..1."""

    mean: float = Field(description="Arithmetic mean.")
    std: float | None = Field(description="Sample standard deviation (n - 1); null for a single seed.")

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Of values of which one may not exist: then there is no mean either."""
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return None
        return cls(mean=fmean(known), std=stdev(known) if len(known) > 1 else None)


class ReproducedRow(Frozen):
    """One row."""

    name: str = Field(description="As in `protoocc train --ablation`, without the table.")
    masks: str = Field(description="Pseudo masks of the shards that it was trained on.")
    changes: tuple[str, ...] = Field(description="Settings of this row.")
    miou: Spread | None = Field(description="mIoU.")
    preset: str = Field("demo", description="Preset whose settings were changed.")
    over: str | None = Field(None, description="Row that it is compared with; null where it is none but itself.")
    difference: Spread | None = Field(description="mIoU minus that of the row `over`, seed by seed; null without one.")
    iou: Spread | None = Field(description="IoU of everything occupied.")
    things_iou: Spread | None = Field(description="IoU of things.")
    published_miou: float | None = Field(description="The paper's, a share; null where it cannot be read.")
    published_difference: float | None = Field(description="The paper's, to the row `over`.")
    seeds: tuple[SeedResult, ...] = Field(description="The trainings.")


class TableFacts(Frozen):
    """What one must know to read the table."""

    table: str = Field(description="Such as table4.")
    split: str = Field(description="Scored scenes; never those that were trained on.")
    samples: int = Field(description="Scored samples.")
    train_samples: int = Field(description="Samples of the split `train`.")
    steps: int = Field(description="Training steps of a row.")
    changes: tuple[str, ...] = Field(description="Settings of all rows that were changed beside the preset's.")
    world: dict[str, Any] = Field(description="Settings of the generated world.")
    left_out: dict[str, str] = Field(description="Rows that were not trained, and why.")
    command: str = Field(description="Makes the table, in any folder.")


class ReproducedTable(TableFacts):
    """The table."""

    seeds: tuple[int, ...] = Field(description="Of the trainings.")
    frequent_class: Figures = Field(description="Of the most frequent class of each voxel, on the same samples.")
    commits: tuple[str, ...] = Field(description="Releases and commits of the code that trained and scored.")
    hardware: tuple[str, ...] = Field(description="What was trained on.")
    rows: tuple[ReproducedRow, ...] = Field(description="In the order of the paper.")


def make_table(facts: TableFacts, results: Mapping[str, Sequence[SeedResult]]) -> ReproducedTable:
    """Sums up the trainings of a table.

    Args:
        facts: what they have in common.
        results: by row name, at least one; the same seeds in the same order for all.
    """
    first = next(iter(results))
    every = [result for found in results.values() for result in found]
    return ReproducedTable(
        **dict(facts),
        seeds=tuple(result.seed for result in results[first]),
        frequent_class=every[0].frequent_class,
        commits=tuple(sorted({commit for result in every for commit in result.commits})),
        hardware=tuple(sorted({result.hardware for result in every})),
        rows=tuple(_row(facts.table, name, results) for name in results),
    )


def _row(table: str, name: str, results: Mapping[str, Sequence[SeedResult]]) -> ReproducedRow:
    rows, found = rows_of(table), results[name]
    row, over = rows[name], _compared_with(table, name, results)
    spreads = {key: Spread.of([getattr(result.scores, key) for result in found]) for key in _FIGURES}
    pairs = zip(
        (result.scores.miou for result in found), (result.scores.miou for result in results[over or name]), strict=True
    )
    return ReproducedRow(
        name=name,
        masks=row.masks,
        preset=row.preset,
        changes=row.changes_of(row.preset),
        **spreads,
        over=over,
        difference=None if over is None else Spread.of([_minus(*pair) for pair in pairs]),
        published_miou=_share(row.published_miou),
        published_difference=None if over is None else _share(_minus(row.published_miou, rows[over].published_miou)),
        seeds=tuple(found),
    )


def _compared_with(table: str, name: str, results: Mapping[str, Sequence[SeedResult]]) -> str | None:
    """The row that this one names or, where it names none, the first trained one of its preset; None for that one."""
    rows = rows_of(table)
    over = rows[name].over or next(other for other in results if rows[other].preset == rows[name].preset)
    return None if over == name or over not in results else over


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _share(percent: float | None) -> float | None:
    """A printed figure of two decimals without the noise of the division."""
    return None if percent is None else round(percent / 100, 6)


def markdown(table: ReproducedTable) -> str:
    """The table and everything one must know to read it, percent."""
    overs = {row.over for row in table.rows if row.over is not None}
    over = f"over {overs.pop()}" if len(overs) == 1 else "over its host"
    lines = [
        f"# Table {table.table.removeprefix('table')} on a generated world",
        "",
        f"| row | mIoU | {over} | the paper's mIoU | {over} | IoU | IoU of things |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in table.rows),
        "",
        *(f"- {note}" for note in _notes(table)),
    ]
    return "\n".join(lines) + "\n"


def _line(row: ReproducedRow) -> str:
    published = [_percent(row.published_miou), _percent(row.published_difference, sign="+")]
    cells = [
        _spread(row.miou),
        _spread(row.difference, sign="+"),
        *published,
        _spread(row.iou),
        _spread(row.things_iou),
    ]
    return f"| {' | '.join([row.name, *cells])} |"


def _notes(table: ReproducedTable) -> Iterator[str]:
    seeds, every = ", ".join(map(str, table.seeds)), [result for row in table.rows for result in row.seeds]
    constant = table.frequent_class
    yield (
        f"Percent of scored voxels (`mask_camera`); mean ± sample standard deviation over the training seeds {seeds}; "
        "differences are taken seed by seed."
    )
    yield f"Scored on split `{table.split}`: {table.samples} samples, on which nothing was trained."
    yield (
        f"{_presets(table)}: {table.steps} steps on {table.train_samples} samples of split `train`, "
        f"{fmean(result.train_seconds for result in every):.0f} s a training."
    )
    for name, row in rows_of(table.table).items():
        if row.steps is not None and name in {trained.name for trained in table.rows}:
            yield f"{name}: {row.steps} steps, whatever the others have."
    yield f"The paper's figures are those of {_PUBLISHED.get(table.table, _OCC3D)}: {_NOT_THE_SAME}"
    yield (
        f"The most frequent class of each voxel has mIoU {_percent(constant.miou)}, IoU {_percent(constant.iou)}, IoU "
        f"of things {_percent(constant.things_iou)} on the same samples."
    )
    if table.changes:
        yield f"All rows: {', '.join(f'`{change}`' for change in table.changes)}."
    for name, reason in table.left_out.items():
        yield f"Left out: {name}: {reason}."
    yield f"World: {', '.join(f'{name} {value}' for name, value in flatten(table.world).items())}."
    yield f"Code: {', '.join(table.commits)}. Hardware: {'; '.join(table.hardware)}."
    yield f"Command: `{table.command}`"


def _presets(table: ReproducedTable) -> str:
    names = dict.fromkeys(row.preset for row in table.rows)
    if len(names) > 1:
        return f"Rows are the presets {', '.join(f'`{name}`' for name in names)}, small networks"
    return f"Rows change settings of the preset `{next(iter(names))}`, a small network"


def _spread(spread: Spread | None, sign: str = "") -> str:
    if spread is None:
        return ""
    mean = _percent(spread.mean, sign)
    return mean if spread.std is None else f"{mean} ± {_percent(spread.std)}"


def _percent(share: float | None, sign: str = "") -> str:
    return "" if share is None else f"{100 * share:{sign}.2f}"
