"""`protoocc predict`: a checkpoint's predictions as files, from shards, from raw images, or from a user's photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, refuse
from cli.model import Preset, Shards
from cli.network_input import DepthMaps, NetworkInput, Run
from cli.options import DATASETS_YAML, Dataset, Datasets, Json, expected
from cli.progress import progress_bar
from cli.say import name_of, say

if TYPE_CHECKING:
    from protoocc.predictions import Kind, PredictionSummary
    from protoocc.predictions_source import Source
    from protoocc.submission import Benchmark
    from schemas.geometry import VoxelGrid


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, predict)


def predict(
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="YAML or JSON file of your own cameras: photo, intrinsics and pose of each. No LiDAR, no labels.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Folder of the photos of one moment; may be repeated. The calibration file's own by default.",
            show_default=False,
        ),
    ] = None,
    records: Annotated[
        bool,
        typer.Option("--records", help="Read the raw images of `protoocc prepare`, not shards: no labels, no masks."),
    ] = False,
    depth_maps: DepthMaps = None,
    split: Annotated[str, typer.Option("--split", help="Split to predict.")] = "val",
    samples: Annotated[
        list[str] | None,
        typer.Option("--sample", help="Only the sample of this token; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only so many samples, the first ones.", show_default=False)
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            help="occ3d or semantickitti: submission files; npz: class and visibility of each voxel; pictures: PNG. "
            "May be repeated. By default those of the benchmark of its classes; npz and pictures of your own photos.",
            show_default=False,
        ),
    ] = None,
    submission: Annotated[
        bool,
        typer.Option(
            "--submission",
            help="Check the files of the whole split by the rules of the benchmark and put them into submission.zip.",
        ),
    ] = False,
    predictions: Annotated[
        Path, typer.Option("--predictions", help="Folder for the files; a part that is there is continued.")
    ] = Path("predictions"),
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples that are computed together.")] = 1,
    single_frame: Annotated[
        bool, typer.Option("--single-frame", help="Leave out earlier keyframes, also where the network reads some.")
    ] = False,
    preset: Preset = "demo",
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Predict occupancy with a trained network and store it as files.

    Killed? Run it again: it goes on where it was and ends in the same files. docs/predict.md shows a calibration file.

    Examples:

        protoocc predict --run runs/nuscenes-protoocc-small --dataset nuscenes --write occ3d --write pictures

        protoocc predict --run runs/nuscenes-protoocc-small --dataset nuscenes --records --batch 4

        protoocc predict --run runs/kitti-voxformer-base --dataset kitti --split test --submission

        protoocc predict --run runs/nuscenes-protoocc-small --calibration car/calibration.yaml --predictions car/out

        protoocc predict --run runs/kitti-voxformer-base --calibration car/calibration.yaml --depth-maps car/depth
    """
    from protoocc.checkpoint import load_config, load_network
    from protoocc.inference import default_device
    from protoocc.predictions import PredictionOptions, write_predictions
    from protoocc.submission import benchmark_of, check_submission

    refuse(("images",), calibration is None, "it holds the photos of a --calibration file")
    refuse(("write", "samples", "limit", "calibration"), submission, "--submission takes a whole split in its own form")
    kinds = _kinds(write or [])
    given = NetworkInput(
        calibration=calibration,
        images=images,
        records=records,
        depth_maps=depth_maps,
        split=split,
        preset=preset,
        name=name,
        datasets=datasets,
        shards=shards,
        run=run,
    )
    checkpoint = given.checkpoint
    config = load_config(checkpoint)
    benchmark = benchmark_of(config.classes)
    kinds = kinds or (("npz", "pictures") if calibration is not None else (benchmark,))
    options = PredictionOptions(kinds=kinds, batch=batch, single_frame=single_frame)
    if submission:
        check_submission(benchmark, config.classes, config.model.grid)
    source = given.open(config, single_frame=single_frame)
    _choose(source, samples, limit)
    network, _ = load_network(checkpoint)
    with progress_bar("predict") as update:
        summary = write_predictions(network.to(default_device()), config, source, predictions, options, update)
    if submission:
        _bundle(predictions, benchmark, source, config.model.grid)
    _report(summary, as_json)


def _bundle(folder: Path, benchmark: Benchmark, source: Source, grid: VoxelGrid) -> None:
    """Writes the zip and says what the server will ask for beyond it."""
    from protoocc.submission import lacking_sequences, write_submission

    tokens = [moment.token for moment in source.moments]
    path = write_submission(folder, benchmark, tokens, grid)
    say(f"submission: {len(tokens)} samples checked; {name_of(path)}")
    lacking = lacking_sequences(tokens) if benchmark == "semantickitti" else ()
    if lacking:
        say(f"the server takes the sequences 11 to 21 at once; {', '.join(lacking)} are not in this split", "yellow")


def _kinds(words: list[str]) -> tuple[Kind, ...]:
    from protoocc.predictions import KINDS

    for word in words:
        if word not in KINDS:
            raise expected("--write", word, KINDS)
    return tuple(kind for kind in KINDS if kind in words)


def _choose(source: Source, samples: list[str] | None, limit: int | None) -> None:
    """Keeps the samples that were asked for."""
    from schemas.errors import ConfigError, did_you_mean

    known = {moment.token for moment in source.moments}
    for token in samples or ():
        if token not in known:
            raise ConfigError(f"--sample {token}: {source.name} has no such sample.{did_you_mean(token, known)}")
    source.keep([n for n, moment in enumerate(source.moments) if not samples or moment.token in samples][:limit])


def _report(summary: PredictionSummary, as_json: bool) -> None:
    import dataclasses
    import json

    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), default=str, indent=1))
        return
    there = summary.samples - summary.computed
    say(f"predict: {summary.computed} samples predicted, {there} were there; {name_of(summary.folder)}")
    for picture in sorted((summary.folder / "pictures").glob("*.png")) if summary.samples <= 20 else ():
        typer.echo(picture)
