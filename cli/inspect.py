"""Commands that look: view, status, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.model import Run, Shards, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json, Work, load_dataset
from cli.progress import progress_bar


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (view, status, doctor):
        app.command()(command)


def view(
    split: Annotated[str, typer.Option("--split", help="Split to draw from.")] = "val",
    count: Annotated[int, typer.Option("--count", min=1, help="Number of samples, spread evenly over the split.")] = 4,
    pictures: Annotated[Path, typer.Option("--pictures", help="Folder for the PNG files.")] = Path("pictures"),
    prototypes: Annotated[
        bool, typer.Option("--prototypes", help="Also draw the image prototypes of the trained network.")
    ] = False,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
) -> None:
    """Draw samples: six images with mask borders, ground truth and prediction from above and in 3D.

    Without --run only images and ground truth are drawn.

    Examples:

        protoocc view --dataset nuscenes-mini --count 8

        protoocc view --run runs/nuscenes-protoocc-small --split val --pictures pictures/small --prototypes
    """
    folder = find_shards(shards, datasets, name)
    paths = draw_with_bar(folder, split, pictures, run=run, count=count, prototypes=prototypes)
    for path in paths:
        typer.echo(path)


def draw_with_bar(
    shards: Path, split: str, out: Path, *, run: Path | None, count: int, prototypes: bool = False
) -> list[Path]:
    """Draws pictures under a progress bar; returns their paths."""
    import protoocc

    with progress_bar("view", "pictures") as update:
        return protoocc.draw(
            protoocc.open_shards(shards, split),
            out,
            checkpoint=run,
            count=count,
            prototypes=prototypes,
            on_progress=update,
        )


def status(name: Dataset = None, datasets: Datasets = DATASETS_YAML, out: Work = None, as_json: Json = False) -> None:
    """Show what is done, what is missing, sizes, and the next command.

    Examples:

        protoocc status

        protoocc status --dataset nuscenes --json
    """
    from cli.status import print_status
    from pipelines.status import stage_rows
    from schemas.datasets import load_datasets

    dataset = load_dataset(datasets, name, out)
    rows = stage_rows(dataset.work, dataset.name, all_names=list(load_datasets(datasets)), dataset=dataset)
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], default=str, indent=1))
    else:
        print_status(rows, Console())


def doctor(as_json: Json = False) -> None:
    """Check the installation and the machine, with the exact repair command where something is off.

    Examples:

        protoocc doctor

        protoocc doctor --json
    """
    from cli.doctor import doctor as examine

    raise typer.Exit(examine(as_json))
