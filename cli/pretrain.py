"""Commands that pretrain image features: make image targets, learn from them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.data import print_json, run_with_bar
from cli.given import add_command, refuse
from cli.model import Preset
from cli.options import (
    DATASETS_YAML,
    Changes,
    CheckInputs,
    Dataset,
    Datasets,
    Json,
    MemoryLimit,
    Overwrite,
    Root,
    SchedulerKind,
    Version,
    Work,
    Workers,
    expected,
    load_dataset,
)
from cli.progress import make_scheduler, progress_bar
from cli.say import name_of, say

if TYPE_CHECKING:
    from protoocc.pretrain import PretrainStep, PretrainSummary

pretrain = typer.Typer(
    name="pretrain",
    help="Train image features on classes and depth of single pixels, for runs to start from.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (targets, images, export):
        add_command(pretrain, command)
    app.add_typer(pretrain)


def targets(
    source: Annotated[
        str,
        typer.Option(
            "--source", help="truth: exact pixels of `protoocc synth --depth`; lidar: points of the keyframes."
        ),
    ] = "truth",
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    root: Root = None,
    version: Version = None,
    out: Work = None,
    scheduler: SchedulerKind = "processes",
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    check_inputs: CheckInputs = False,
    as_json: Json = False,
) -> None:
    """Write the network's images with class and depth of their pixels to `<work>/pixels`.

    Needs `protoocc prepare`. The folder can be moved: `protoocc pretrain images --targets DIR` needs nothing else.

    Examples:

        protoocc pretrain targets --dataset pixels

        protoocc pretrain targets --dataset nuscenes --source lidar
    """
    from pipelines.pixels import PixelsConfig, make_pixels

    if source not in ("truth", "lidar"):
        raise expected("--source", source, ("truth", "lidar"))
    dataset = load_dataset(datasets, name, out, root=root, version=version)
    config = PixelsConfig.model_validate({"source": source})
    summary = run_with_bar(
        "targets",
        lambda runtime: make_pixels(dataset, dataset.work, config, runtime),
        scheduler=make_scheduler(scheduler, workers, memory_limit),
        overwrite=overwrite,
        check_inputs=check_inputs,
    )
    if as_json:
        print_json(summary)


def images(
    preset: Preset = "demo",
    changes: Changes = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--targets", help="Folder of `protoocc pretrain targets`; `<work>/pixels` of the dataset by default."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder for the weights; `pretrained/<dataset>-<preset>` by default.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    half: Annotated[bool, typer.Option("--half/--full", help="Store the weights in 16 or in 32 bits.")] = True,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    as_json: Json = False,
) -> None:
    """Pretrain the image features of a preset on the pixels of the split train, and score them on val.

    Leaves image_features.safetensors, which `protoocc train --weights` takes, and its card image_features.json: how it
    was made, and pixel accuracy, mIoU and error of the depth on the held-out images. Uses a GPU if there is one.

    Examples:

        protoocc pretrain images --preset demo --dataset pixels

        protoocc pretrain images --targets work/pixels --set schedule.steps=2000 --set workers=2

        protoocc train --preset demo --weights pretrained/pixels-demo/image_features.safetensors
    """
    from protoocc.data import read_shard_manifest
    from protoocc.pretrain import pretrain_preset

    refuse(("name", "datasets"), folder is not None, "--targets names the folder already")
    config = pretrain_preset(preset, changes or ())
    config = config.model_copy(update={"half": config.half and half})
    if folder is None:
        from schemas.workfolder import WorkFolder

        folder = WorkFolder(load_dataset(datasets, name, None).work).pixels
    dataset = read_shard_manifest(folder).name
    options = [word for change in changes or () for word in ("--set", change)]
    options += ["--dataset", dataset, *([] if half else ["--full"])]
    command = shlex.join(["protoocc", "pretrain", "images", "--preset", preset, *options])
    from protoocc.pretrain import pretrain_images

    with progress_bar("pretrain", "steps") as update:

        def show(step: PretrainStep) -> None:
            update(step.step, step.steps, f"classes {step.losses['classes']:.3f} depth {step.losses['depth']:.3f}")

        summary = pretrain_images(
            config,
            folder,
            run or Path("pretrained") / f"{dataset}-{preset}",
            resume=resume,
            command=command,
            on_step=show,
        )
    print_summary(summary)
    if as_json:
        typer.echo(summary.scores.model_dump_json(indent=1))


def print_summary(summary: PretrainSummary) -> None:
    """One line with what the features can tell, one with the file."""
    scores = summary.scores
    parts = [
        *([] if scores.pixel_accuracy is None else [f"pixel accuracy {100 * scores.pixel_accuracy:.1f} %"]),
        *([] if scores.miou is None else [f"mIoU {100 * scores.miou:.1f} %"]),
        *([] if scores.depth_error is None else [f"depth off by {100 * scores.depth_error:.1f} %"]),
        *([] if scores.depth_error_m is None else [f"{scores.depth_error_m:.2f} m on average"]),
    ]
    found = f"{scores.images} held-out images: {', '.join(parts)}"
    say(f"pretrain: {summary.steps} steps in {summary.seconds:.1f} s; {found}")
    say(f"  {name_of(summary.weights)}, {summary.weights.stat().st_size / 1e6:.2f} MB")


def export(
    weights: Annotated[Path, typer.Argument(help="image_features.safetensors of `protoocc pretrain images`.")],
    model: Annotated[Path, typer.Option("--model", help="ONNX file to write.")] = Path("classes.onnx"),
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    as_json: Json = False,
) -> None:
    """Write pretrained image features as an ONNX file that tells the class of each pixel.

    `protoocc masks --generator classes --model FILE` takes it. The dataset's `image` says how its photos become the
    images that the features were trained on; the file takes the whole photo at that scale. Needs the extra `export`.

    Examples:

        protoocc pretrain export pretrained/pixels-demo/image_features.safetensors --dataset nuscenes
    """
    from protoocc.export_pixels import export_pixel_classes

    share = export_pixel_classes(weights, load_dataset(datasets, name, None).image, model)
    say(f"{name_of(model)}: onnxruntime and PyTorch tell {100 * share:.3f} % of the pixels of noise apart")
    if as_json:
        typer.echo(json.dumps({"model": str(model), "differing": share}))
