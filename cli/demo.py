"""`protoocc demo`: the whole way on a generated world, from raw data to a table and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.given import add_command, set_places
from cli.options import expected, sized
from cli.say import name_of, say
from cli.world import DATASETS, KITTI_WORLD, World, make_shards, make_world

if TYPE_CHECKING:
    from protoocc.evaluate import EvalReport
    from protoocc.training_report import TrainSummary

ENTRY = "demo"


@dataclass(frozen=True)
class Demo:
    """What is shown of a dataset's form.

    Attributes:
        world: its usual size.
        preset: the network.
        changes: of its settings.
        yardstick: preset of a simple network beside it.
    """

    world: World
    preset: str
    yardstick: str
    changes: tuple[str, ...] = ()


DEMOS: Final = {
    "nuscenes": Demo(World({"train": 16, "val": 3}, keyframes=5, width=288, seed=0), "demo", "plain"),
    "semantickitti": Demo(
        KITTI_WORLD,
        "voxformer-demo",
        "proposals",
        ("model.prototype_mapping=true", "model.prototype_optimisation=true"),
    ),
}


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path("demo"),
    dataset: Annotated[
        str, typer.Option("--dataset", help="Form of the world: nuscenes or semantickitti.")
    ] = "nuscenes",
    train_scenes: Annotated[int | None, sized("--train-scenes", 1, "Scenes to train on, 16 or 14 by default.")] = None,
    val_scenes: Annotated[int | None, sized("--val-scenes", 1, "Unseen scenes to score, 3 by default.")] = None,
    keyframes: Annotated[int | None, sized("--keyframes", 1, "Keyframes of each scene, 5 or 4 by default.")] = None,
    width: Annotated[int | None, sized("--width", 200, "Width of the images, 288 or 620 pixels by default.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps; the preset's by default.", show_default=False)
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Number of pictures of unseen keyframes.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the world.")] = 0,
    yardstick: Annotated[
        bool,
        typer.Option("--yardstick", help="Also train and score `plain`, a simple network; semantickitti: `proposals`."),
    ] = False,
) -> None:
    """Run everything on a generated world: data, labels, masks, shards, training, scores, pictures.

    Takes minutes on two CPU cores. Killed? Run it again: it continues where it was. The preset is `demo`; in
    SemanticKITTI's form, with one camera and LiDAR depth, `voxformer-demo` with image prototypes.

    Examples:

        protoocc demo

        protoocc demo --out /tmp/demo --train-scenes 2 --keyframes 4 --steps 20

        protoocc demo --yardstick

        protoocc demo --dataset semantickitti --out demo-kitti
    """
    from cli.inspect import draw_with_bar
    from pipelines.masks import SeedsConfig
    from protoocc import read_preset

    if dataset not in DEMOS:
        raise expected("--dataset", dataset, DEMOS)
    shown = DEMOS[dataset]
    if yardstick:
        read_preset(shown.yardstick)  # refused before minutes of work
    started = time.monotonic()
    set_places({"name": ENTRY, "datasets": out / DATASETS})
    continued = (out / DATASETS).is_file()
    world = shown.world.resized({"train": train_scenes, "val": val_scenes}, keyframes, width, seed)
    shards = make_shards(make_world(out, world, {ENTRY: "work"})[ENTRY], SeedsConfig())
    length = () if steps is None else (f"schedule.steps={steps}",)
    summary, report = _learn(shown.preset, (*shown.changes, *length), out / "run", shards)
    (out / "eval.json").write_text(report.model_dump_json(indent=1) + "\n")
    simple = {}
    if yardstick:
        simple[shown.yardstick] = _learn(shown.yardstick, length, out / shown.yardstick, shards)[1]
    paths = draw_with_bar(shards, "val", out / "pictures", run=out / "run", samples=pictures)
    seconds = time.monotonic() - started
    facts = {"seconds": round(seconds, 1), "continued": continued, "val": val_figures(report, simple)}
    _write_summary(out / "summary.json", facts, summary, paths)
    say(f"demo: {seconds:.0f} s, summary in {name_of(out / 'summary.json')}, pictures:")
    for path in paths:
        typer.echo(path)


def _learn(preset: str, changes: Sequence[str], run: Path, shards: Path) -> tuple[TrainSummary, EvalReport]:
    """Trains a preset, or goes on where it was, and prints its scores on the unseen scenes."""
    from cli.evaluate import evaluate_with_bar
    from cli.model import train_with_bar
    from cli.score_table import print_report
    from protoocc import read_preset

    summary = train_with_bar(read_preset(preset, changes), shards, run, resume=True)
    report = evaluate_with_bar(run, shards, "val")
    print_report(report)
    return summary, report


def val_figures(report: EvalReport, simple: Mapping[str, EvalReport]) -> dict[str, Any]:
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
    for preset, other in simple.items():
        row = other.row("model")
        figures[preset] = {"miou": row.miou, "iou": row.iou, "things_iou": row.things_iou}
    return figures


def _write_summary(path: Path, facts: dict[str, Any], train: TrainSummary, paths: list[Path]) -> None:
    from pipelines.files import write_json

    losses = {name: {"first": first, "last": train.last[name]} for name, first in train.first.items()}
    write_json(path, {**facts, "losses": losses, "pictures": [str(p.relative_to(path.parent)) for p in paths]})
