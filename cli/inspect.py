"""Commands that look: view, status, doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.given import add_command, is_typed, refuse
from cli.model import Run, Shards, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json, Work, load_dataset
from cli.progress import progress_bar
from cli.say import answers


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (view, status, doctor):
        add_command(app, command)


def view(
    place: Annotated[
        str | None, typer.Argument(metavar="[SHARDS|URL]", help="Set of shards to draw from, like --shards.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Split to draw from; with --sample, any split by default.")
    ] = "val",
    count: Annotated[int, typer.Option("--count", min=1, help="Number of samples, spread evenly over the split.")] = 4,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample", help="Key (`<scene>-<frame>`) or token of a sample. May be repeated; replaces --count."
        ),
    ] = None,
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

        protoocc view https://example.org/occupancy-demo --sample synth-0016-0002
    """
    refuse(("shards", "name", "datasets"), place is not None, "SHARDS names the set alone")
    refuse(("count",), sample is not None, "--sample names what is drawn")
    refuse(("prototypes",), run is None, "prototypes are drawn from a trained network, name its --run")
    folder = find_shards(shards if place is None else place, datasets, name)
    for in_split, chosen in _by_split(folder, split, sample or count).items():
        for path in draw_with_bar(folder, in_split, pictures, run=run, samples=chosen, prototypes=prototypes):
            typer.echo(path)


def _by_split(folder: Path, split: str, samples: int | Sequence[str]) -> Mapping[str, int | Sequence[str]]:
    """What to draw of each split: samples that are named may lie in any, unless the user typed one."""
    from protoocc.pictures import find_split

    if isinstance(samples, int) or is_typed("split"):
        return {split: samples}
    named: dict[str, list[str]] = {}
    for name in samples:
        named.setdefault(find_split(folder, name), []).append(name)
    return named


def draw_with_bar(
    shards: Path,
    split: str,
    out: Path,
    *,
    run: Path | None,
    samples: int | Sequence[str],
    prototypes: bool = False,
) -> list[Path]:
    """Draws pictures under a progress bar; returns their paths."""
    import protoocc

    with progress_bar("view", "pictures") as update:
        return protoocc.draw(
            protoocc.open_shards(shards, split),
            out,
            checkpoint=run,
            samples=samples,
            prototypes=prototypes,
            on_progress=update,
        )


Verify = Annotated[
    bool,
    typer.Option("--verify", help="Read every stored file and compare it with its checksum; exit code 2 if one fails."),
]
Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--runs", help="Folder with training runs at any depth; may be repeated.  [default: runs]", show_default=False
    ),
]


def status(
    shards: Annotated[
        str | None,
        typer.Argument(metavar="[SHARDS|URL]", help="Say of this set of shards what it holds and what made it."),
    ] = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    out: Work = None,
    verify: Verify = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show what is done, what is missing, sizes, and the next command.

    Examples:

        protoocc status

        protoocc status --dataset nuscenes --json

        protoocc status --dataset nuscenes --verify

        protoocc status --dataset nuscenes --runs runs --runs /scratch/ablations

        protoocc status https://example.org/occupancy-demo
    """
    if shards is not None:
        refuse(("name", "datasets", "out", "verify", "runs"), True, "SHARDS names the set alone")
        print_shards(shards, as_json=as_json)
        return
    from cli.again import complete_commands
    from cli.status import print_status
    from pipelines.status import stage_rows
    from schemas.datasets import load_datasets

    dataset = load_dataset(datasets, name, out)
    found = stage_rows(
        dataset.work, dataset.name, runs or [Path("runs")], all_names=list(load_datasets(datasets)), dataset=dataset
    )
    rows = [replace(row, next_command=complete_commands(row.next_command)) for row in found]
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], default=str, indent=1))
    else:
        print_status(rows, answers())
    if verify:
        from pipelines.verify import verify_stages

        with progress_bar("verify", "units") as update:
            verify_stages([row.folder for row in rows], dataset, update)


def print_shards(address: str, *, as_json: bool) -> None:
    """What a set of shards holds and what made it, from its manifest alone.

    Raises:
        DataError: there is none, or it is damaged or unsafe.
    """
    from cli.status import print_set
    from protoocc.shards.places import Place
    from protoocc.shards.pull import read_remote_manifest
    from schemas.outside import parse_json

    place = Place(address)
    manifest, data = read_remote_manifest(place)
    raw = parse_json(place.source("manifest.json"), data)
    if as_json:
        import json

        typer.echo(json.dumps({**manifest.model_dump(mode="json"), "config": raw.get("config")}, indent=1))
    else:
        print_set(manifest, raw, answers())


def doctor(as_json: Json = False) -> None:
    """Check the installation and the machine, with the exact repair command where something is off.

    Examples:

        protoocc doctor

        protoocc doctor --json
    """
    from cli.doctor import doctor as examine

    raise typer.Exit(examine(as_json))
