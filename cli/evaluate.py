"""The command `eval`: scores of a run, or of anybody's files of predictions, as a table or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, refuse
from cli.model import Preset, Run, Shards, find_run, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json, Workers, load_dataset
from cli.progress import progress_bar
from cli.runs import keep_scores
from cli.score_table import print_report

if TYPE_CHECKING:
    from pipelines.occupancy.layouts import LayoutName
    from pipelines.occupancy.predictions import ListName, PredictionFiles
    from protoocc.evaluate import EvalConfig, EvalReport
    from schemas.datasets import DatasetSpec


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, evaluate, "eval")


def evaluate(
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Score the files of this folder instead of a run: TOKEN.npz with arr_0 (Occ3D submissions) or pred "
            "(SparseOcc), [gts/]SCENE/TOKEN/labels.npz, sequences/NN/predictions/*.label (SemanticKITTI), or the files "
            "of --source.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="Whose class numbers and files --predictions has: occ3d, openocc-v2, occ3d-waymo, surroundocc or "
            "openoccupancy. By default classes are numbered as in the shards.",
            show_default=False,
        ),
    ] = None,
    preset: Preset = "demo",
    split: Annotated[str, typer.Option("--split", help="Split to score.")] = "val",
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    workers: Workers = None,
    rays: Annotated[bool, typer.Option("--rays/--no-rays", help="Whether to compute RayIoU.")] = True,
    as_json: Json = False,
) -> None:
    """Score a trained network, or anybody's predictions, beside two baselines: mIoU, IoU and RayIoU.

    The baselines are the most frequent class of each voxel over the training split, and all-free. Voxels are scored
    under three mask protocols: camera (the Occ3D benchmark), LiDAR and none. docs/metrics.md explains each score.

    Examples:

        protoocc eval --run runs/nuscenes-protoocc-small --dataset nuscenes

        protoocc eval --run runs/nuscenes-protoocc-small --json > eval.json

        protoocc eval --predictions submissions/flashocc --dataset nuscenes

        protoocc eval --predictions results/surroundocc --source surroundocc --dataset nuscenes --workers 4
    """
    from cli.sources import prediction_source

    given = predictions is not None
    refuse(("preset",), run is not None, "--run names the run already, which knows its network")
    refuse(("run", "preset"), given, "--predictions names what to score already")
    refuse(("source",), not given, "it says how --predictions are stored")
    kind = prediction_source(source)
    folder = find_shards(shards, datasets, name)
    if predictions is None:
        report = evaluate_with_bar(find_run(run, folder, preset), folder, split, eval_config(workers, rays=rays))
    else:
        entry = load_dataset(datasets, name, None) if shards is None else None
        files = open_files(predictions, folder, split, kind, entry)
        report = score_with_bar(files, folder, split, eval_config(workers, rays=rays))
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        print_report(report)


def open_files(
    predictions: Path,
    shards: Path,
    split: str,
    source: LayoutName | ListName | None,
    entry: DatasetSpec | None,
) -> PredictionFiles:
    """Finds the files of the samples of a split; ``entry`` is None where the shards were named alone.

    Raises:
        ConfigError: no such folder or a class without a counterpart.
        DataError: missing or foreign files.
    """
    from pipelines.occupancy.predictions import open_predictions
    from protoocc.data import open_shards

    opened = open_shards(shards, split)
    return open_predictions(predictions, [sample for _, sample in opened.samples], opened.dataset, source, entry)


def evaluate_with_bar(run: Path, shards: Path, split: str, config: EvalConfig | None = None) -> EvalReport:
    """Scores a checkpoint under a progress bar; a run keeps its scores. ``config`` None: with all cores and rays."""
    from protoocc.evaluate import score

    with progress_bar("eval") as update:
        report = score(run, shards, split, config or eval_config(None), on_progress=update)
    keep_scores(run, report, shards)
    return report


def score_with_bar(files: PredictionFiles, shards: Path, split: str, config: EvalConfig) -> EvalReport:
    """Scores files of predictions under a progress bar."""
    from protoocc.evaluate import score_predictions

    with progress_bar("eval") as update:
        return score_predictions(files, shards, split, config, on_progress=update)


def eval_config(workers: int | None, *, rays: bool = True) -> EvalConfig:
    """Settings of `--workers`, None for all cores, and of `--rays`."""
    from pipelines.scheduler import available_cores
    from protoocc.evaluate import EvalConfig

    return EvalConfig(workers=workers or available_cores(), rays=rays)
