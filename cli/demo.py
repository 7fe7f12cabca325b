"""`protoocc demo`: the whole way on a generated world, from raw data to a table and pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.given import add_command, set_places
from cli.progress import make_scheduler
from cli.say import name_of, say

if TYPE_CHECKING:
    from protoocc.evaluate import EvalReport
    from protoocc.training_report import TrainSummary
    from schemas.datasets import DatasetSpec

ENTRY = "demo"
YARDSTICK = "plain"
"""Preset of a network without the paper's parts that takes the same time to train."""


@dataclass(frozen=True)
class DemoSize:
    """How large the demo's world and training are."""

    train_scenes: int
    val_scenes: int
    keyframes: int
    width: int
    steps: int | None
    pictures: int


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path("demo"),
    train_scenes: Annotated[int, typer.Option("--train-scenes", min=1, help="Scenes to train on.")] = 16,
    val_scenes: Annotated[int, typer.Option("--val-scenes", min=1, help="Unseen scenes to score.")] = 3,
    keyframes: Annotated[int, typer.Option("--keyframes", min=1, help="Keyframes of each scene.")] = 5,
    width: Annotated[int, typer.Option("--width", min=200, help="Width of the generated images, pixels.")] = 288,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps; the preset's by default.", show_default=False)
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Number of pictures of unseen keyframes.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the world.")] = 0,
    yardstick: Annotated[
        bool, typer.Option("--yardstick", help=f"Also train and score the preset `{YARDSTICK}`, a simple network.")
    ] = False,
) -> None:
    """Run everything on a generated world: data, labels, masks, shards, training, scores, pictures.

    Takes minutes on two CPU cores. Killed? Run it again: it continues where it was.

    Examples:

        protoocc demo

        protoocc demo --out /tmp/demo --train-scenes 2 --keyframes 4 --steps 20

        protoocc demo --yardstick
    """
    from cli.inspect import draw_with_bar
    from protoocc import read_preset
    from schemas.workfolder import WorkFolder

    if yardstick:
        read_preset(YARDSTICK)  # refused before minutes of work
    started = time.monotonic()
    set_places({"name": ENTRY, "datasets": out / "datasets.yaml"})
    continued = (out / "datasets.yaml").is_file()
    size = DemoSize(train_scenes, val_scenes, keyframes, width, steps, pictures)
    dataset = _make_data(out, size, seed)
    shards = WorkFolder(dataset.work).shards
    summary, report = _learn("demo", out / "run", shards, size)
    (out / "eval.json").write_text(report.model_dump_json(indent=1) + "\n")
    plain = _learn(YARDSTICK, out / YARDSTICK, shards, size)[1] if yardstick else None
    paths = draw_with_bar(shards, "val", out / "pictures", run=out / "run", count=size.pictures)
    seconds = time.monotonic() - started
    facts = {"seconds": round(seconds, 1), "continued": continued, "val": val_figures(report, plain)}
    _write_summary(out / "summary.json", facts, summary, paths)
    say(f"demo: {seconds:.0f} s, summary in {name_of(out / 'summary.json')}, pictures:")
    for path in paths:
        typer.echo(path)


def _make_data(out: Path, size: DemoSize, seed: int) -> DatasetSpec:
    from cli.data import run_with_bar, synth
    from pipelines.files import write_bytes
    from pipelines.masks import SeedsConfig, make_masks
    from pipelines.occupancy import Occ3dConfig, make_occupancy
    from pipelines.pack import PackConfig, pack
    from pipelines.prepare import prepare
    from schemas.datasets import load_datasets

    scenes = size.train_scenes + size.val_scenes
    world = out / "world"
    synth(world, scenes=scenes, keyframes=size.keyframes, seed=seed, width=size.width, sweeps=1, slope=0.0)
    write_bytes(out / "datasets.yaml", _datasets_yaml(size).encode())
    dataset = load_datasets(out / "datasets.yaml")[ENTRY]
    work = dataset.work
    run_with_bar("prepare", lambda runtime: prepare(dataset, work, runtime), scheduler=make_scheduler("sync"))
    run_with_bar("occupancy", lambda runtime: make_occupancy(dataset, work, Occ3dConfig(), runtime))
    run_with_bar("masks", lambda runtime: make_masks(dataset, work, SeedsConfig(), runtime))
    run_with_bar("pack", lambda runtime: pack(dataset, work, PackConfig(), runtime))
    return dataset


def _datasets_yaml(size: DemoSize) -> str:
    import yaml

    names = [f"synth-{number:04d}" for number in range(size.train_scenes + size.val_scenes)]
    entry: dict[str, Any] = {
        "format": "nuscenes",
        "root": "world",
        "version": "v1.0-synth",
        "work": "work",
        "image": {"resize": [288, 162], "crop": [0, 6, 288, 154]},
        "grid": {"minimum_m": [-40.0, -40.0, -1.0], "voxel_size_m": 0.4, "shape": [200, 200, 16]},
        "classes": "occ3d",
        "splits": {
            "train": {"scenes": names[: size.train_scenes]},
            "val": {"scenes": names[size.train_scenes :]},
        },
    }
    text: str = yaml.safe_dump({ENTRY: entry}, sort_keys=False)
    return text


def _learn(preset: str, run: Path, shards: Path, size: DemoSize) -> tuple[TrainSummary, EvalReport]:
    """Trains a preset, or goes on where it was, and prints its scores on the unseen scenes."""
    from cli.evaluate import evaluate_with_bar
    from cli.model import train_with_bar
    from cli.score_table import print_report
    from protoocc import read_preset

    changes = [] if size.steps is None else [f"schedule.steps={size.steps}"]
    summary = train_with_bar(read_preset(preset, changes), shards, run, resume=True)
    report = evaluate_with_bar(run, shards, "val")
    print_report(report)
    return summary, report


def val_figures(report: EvalReport, plain: EvalReport | None) -> dict[str, Any]:
    """Figures of `summary.json`, shares 0..1: the network, both baselines, and the yardstick where it was trained."""
    model, frequent, free = (report.row(name) for name in ("model", "frequent_class", "all_free"))
    figures: dict[str, Any] = {
        "miou": model.miou,
        "iou": model.iou,
        "things_iou": model.things_iou,
        "ground_iou": model.ground_iou,
        "frequent_class_miou": frequent.miou,
        "frequent_class_iou": frequent.iou,
        "frequent_class_things_iou": frequent.things_iou,
        "all_free_miou": free.miou,
        "samples": report.samples,
        "mask": "camera",
    }
    if plain is not None:
        row = plain.row("model")
        figures[YARDSTICK] = {"miou": row.miou, "iou": row.iou, "things_iou": row.things_iou}
    return figures


def _write_summary(path: Path, facts: dict[str, Any], train: TrainSummary, paths: list[Path]) -> None:
    from pipelines.files import write_json

    losses = {name: {"first": train.first[name], "last": train.last[name]} for name in ("ce", "lovasz", "cls", "cons")}
    write_json(path, {**facts, "losses": losses, "pictures": [str(p.relative_to(path.parent)) for p in paths]})
