"""The command `eval`: scores of a run as a table or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, refuse
from cli.model import Preset, Run, Shards, find_run, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json
from cli.progress import progress_bar
from cli.say import answers, name_of, say, shown

if TYPE_CHECKING:
    from protoocc.evaluate import EvalReport


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, evaluate, "eval")


def evaluate(
    preset: Preset = "demo",
    split: Annotated[str, typer.Option("--split", help="Split to score.")] = "val",
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Score a trained network: Occ3D mIoU and IoU on camera-visible voxels, beside two baselines.

    The baselines are the most frequent class of each voxel over the training split, and all-free.

    Examples:

        protoocc eval --run runs/nuscenes-protoocc-small --dataset nuscenes

        protoocc eval --run runs/nuscenes-protoocc-small --json > eval.json
    """
    refuse(("preset",), run is not None, "--run names the run already, which knows its network")
    folder = find_shards(shards, datasets, name)
    report = evaluate_with_bar(find_run(run, folder, preset), folder, split)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_report(report)


def evaluate_with_bar(run: Path, shards: Path, split: str) -> EvalReport:
    """Scores a checkpoint under a progress bar."""
    import protoocc

    with progress_bar("eval") as update:
        return protoocc.score(run, shards, split, on_progress=update)


def print_report(report: EvalReport) -> None:
    """Table: a column per predictor, a row per class, mIoU and IoU on top; percent."""
    from rich.table import Table

    table = Table(
        title=shown(f"{report.dataset}, split {report.split}: {report.samples} samples, {report.mask} mask, percent"),
    )
    table.add_column("")
    for row in report.rows:
        table.add_column(row.name.replace("_", " "), justify="right")
    means = {
        "mIoU": [row.miou for row in report.rows],
        "IoU (occupied)": [row.iou for row in report.rows],
        "IoU of things": [row.things_iou for row in report.rows],
        "IoU of ground": [row.ground_iou for row in report.rows],
    }
    for label, shares in means.items():
        table.add_row(label, *map(_percent, shares), style="bold", end_section=label == "IoU of ground")
    for label in report.rows[0].classes:
        table.add_row(shown(label), *(_percent(row.classes[label]) for row in report.rows))
    out = answers()
    out.print(table)
    say(
        f"{name_of(report.checkpoint)}; baseline from split {report.baseline_split}; classes absent from labels and "
        "prediction are left out of the mean",
        "dim",
        to=out,
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
