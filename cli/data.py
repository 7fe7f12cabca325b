"""Commands that make data: prepare, masks, pack; synth and occupancy have files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, refuse
from cli.options import (
    DATASETS_YAML,
    CheckInputs,
    Dataset,
    Datasets,
    DropBad,
    Json,
    MemoryLimit,
    Overwrite,
    Root,
    SchedulerKind,
    Version,
    Work,
    Workers,
    check_on_error,
    load_dataset,
    load_for_prepare,
)
from cli.progress import make_scheduler, print_summary, progress_bar
from cli.say import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.scheduler import Scheduler
    from pipelines.stage import Runtime, StageSummary


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (prepare, masks, pack):
        add_command(app, command)


def run_with_bar(
    title: str,
    stage: Callable[[Runtime], StageSummary],
    *,
    scheduler: Scheduler | None = None,
    overwrite: bool = False,
    on_error: str = "fail",
    check_inputs: bool = False,
) -> StageSummary:
    """Runs a stage under a progress bar and prints its summary; on all cores unless ``scheduler`` says otherwise."""
    from pipelines.stage import Runtime

    runtime = Runtime(
        scheduler=scheduler or make_scheduler("processes"),
        overwrite=overwrite,
        on_error=check_on_error(on_error),
        check_inputs=check_inputs,
        on_note=say,
    )
    with progress_bar(title) as update:
        summary = stage(replace(runtime, on_progress=update))
    print_summary(summary)
    return summary


def print_json(summary: StageSummary, more: Mapping[str, object] | None = None) -> None:
    """Prints the figures of a stage for programs, and what else is to be told."""
    import dataclasses
    import json

    typer.echo(json.dumps({**dataclasses.asdict(summary), **(more or {})}, default=str, indent=1))


def prepare(
    entry: Annotated[str | None, typer.Argument(help="Entry of datasets.yaml.", show_default=False)] = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    root: Root = None,
    version: Version = None,
    out: Work = None,
    scheduler: SchedulerKind = "processes",
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    on_error: DropBad = "fail",
    check_inputs: CheckInputs = False,
    as_json: Json = False,
) -> None:
    """Turn raw nuScenes data into portable records and camera geometry.

    Examples:

        protoocc prepare nuscenes

        protoocc prepare nuscenes-mini --root /data/nuscenes --out work/mini

        protoocc prepare nuscenes --check-inputs
    """
    from pipelines.prepare import prepare as run_prepare
    from schemas.raw import write_raw

    refuse(("name",), entry is not None, f"the entry is named already: {entry}")
    name = name or entry
    dataset, raw = load_for_prepare(datasets, name, out, root=root, version=version)

    def run(runtime: Runtime) -> StageSummary:
        """Stores where the raw data are as soon as the stage has begun, so that a killed run goes on with them."""

        def begin(done: int, total: int) -> None:
            write_raw(dataset.work, raw)
            runtime.on_progress(done, total)

        return run_prepare(dataset, dataset.work, replace(runtime, on_progress=begin))

    summary = run_with_bar(
        "prepare",
        run,
        scheduler=make_scheduler(scheduler, workers, memory_limit),
        overwrite=overwrite,
        on_error=on_error,
        check_inputs=check_inputs,
    )
    write_raw(dataset.work, raw)
    print_absent(summary)
    if as_json:
        print_json(summary)


def print_absent(summary: StageSummary) -> None:
    """Prints what some keyframes lack and what that costs."""
    costs = {
        "lidar": "labels must be imported (--source occ3d), and --check has nothing to compare with",
        "map": "ground without point labels gets no class",
        "boxes": "nothing but point labels tells moving things from standing ones there",
    }
    for name, cost in costs.items():
        _print_count(summary, f"without_{name}", f"of {summary.done} samples have no {name}: {cost}")
    _print_count(
        summary, "outside_map", f"of {summary.done} samples lie beside their map: ground there is as without one"
    )
    _print_count(summary, "sweeps_missing", "sweeps are missing or broken: labels rest on fewer points there")
    _print_count(summary, "point_labels_missing", "files of point labels are missing or broken: those points have none")


def _print_count(summary: StageSummary, name: str, text: str) -> None:
    if count := summary.counts.get(name, 0):
        say(f"  {count:.0f} {text}".replace("lidar", "LiDAR"), "yellow")


def masks(
    generator: Annotated[
        str,
        typer.Option(
            "--generator",
            help="seeds or slic (superpixels), sam or sam2 (networks of yours); classes: classes of pixels for "
            "`occupancy --image-labels`.",
        ),
    ] = "seeds",
    segments: Annotated[int, typer.Option("--segments", help="SEEDS: 299 or 91 masks per image.")] = 299,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Networks: their weights.", show_default=False)
    ] = None,
    model_type: Annotated[
        str | None,
        typer.Option(
            "--model-type",
            help="SAM: vit_b, vit_l, vit_h or vit_t (MobileSAM), if the file must hold that.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Networks: cpu or cuda.")] = "cpu",
    model: Annotated[
        Path | None, typer.Option("--model", help="classes: ONNX file of a segmentation network.", show_default=False)
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="classes: text file, the dataset's class for each of the network's, one a line, - for none; by "
            "default the list in the file.",
            show_default=False,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the generator: name=value.", show_default=False),
    ] = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    root: Root = None,
    version: Version = None,
    out: Work = None,
    scheduler: SchedulerKind = "processes",
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    on_error: DropBad = "fail",
    check_inputs: CheckInputs = False,
    report: Annotated[
        bool, typer.Option("--report", help="Then measure the masks of all generators: a table, a page, a picture.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make pseudo masks: one label map per image that covers it.

    Examples:

        protoocc masks --generator seeds --segments 299

        protoocc masks --generator slic --set region_px=50

        protoocc masks --generator sam --checkpoint weights/sam_vit_b_01ec64.pth --device cuda

        protoocc masks --generator sam --checkpoint sam.pth --set precision=bfloat16 --set compile=true

        protoocc masks --generator sam --checkpoint weights/sam_vit_h_4b8939.pth --set pred_iou_thresh=0.8

        protoocc masks --generator sam --checkpoint weights/mobile_sam.pt --model-type vit_t

        protoocc masks --generator classes --model segmentation.onnx --classes cityscapes.txt

        protoocc masks --report

    A name that `--set` does not know is answered with all settings of the generator.
    """
    from cli.sources import CLASSES, class_model, mask_generator
    from pipelines.class_images import make_class_images
    from pipelines.masks import make_masks

    dataset = load_dataset(datasets, name, out, root=root, version=version)
    stage: Callable[[Runtime], StageSummary]
    if generator == CLASSES:
        own = ("segments", "checkpoint", "model_type", "device")
        refuse(own, True, "--generator classes has --model, --classes and --set")
        stage = partial(make_class_images, dataset, dataset.work, class_model(model, classes, changes or ()))
    else:
        refuse(("model", "classes"), True, "they belong to --generator classes")
        config = mask_generator(
            generator,
            segments=segments,
            checkpoint=checkpoint,
            model_type=model_type,
            device=device,
            changes=changes or (),
        )
        stage = partial(make_masks, dataset, dataset.work, config)
    summary = run_with_bar(
        "masks",
        stage,
        scheduler=make_scheduler(scheduler, workers, memory_limit),
        overwrite=overwrite,
        on_error=on_error,
        check_inputs=check_inputs,
    )
    if generator == CLASSES:
        say("label with them: protoocc occupancy --source lidar --image-labels class-images")
    _print_count(summary, "one_segment", "images are one segment: no mask was found in them, or one covers all")
    measured: dict[str, object] = {}
    if report:
        from cli.mask_report import report_masks

        measured = report_masks(dataset, make_scheduler(scheduler, workers, memory_limit))
    if as_json:
        print_json(summary, measured)


def pack(
    masks: Annotated[str, typer.Option("--masks", help="Whose masks to pack: seeds, slic, sam or sam2.")] = "seeds",
    samples_per_shard: Annotated[int, typer.Option("--samples-per-shard", min=1, help="Samples per shard.")] = 64,
    depth: Annotated[
        bool, typer.Option("--depth", help="Also pack the LiDAR points in each image, for losses of depth and pixels.")
    ] = False,
    depth_maps: Annotated[
        Path | None,
        typer.Option(
            "--depth-maps",
            help="Also pack depth maps of this folder, which networks may read: a .npy (metres) or 16-bit .png (metres "
            "* 256) for each camera file, at its path.",
            show_default=False,
        ),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave out the images: `protoocc join` takes them from the raw data.")
    ] = False,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    root: Root = None,
    version: Version = None,
    out: Work = None,
    scheduler: SchedulerKind = "processes",
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
    on_error: DropBad = "fail",
    check_inputs: CheckInputs = False,
    as_json: Json = False,
) -> None:
    """Pack records, labels, masks and images into WebDataset shards with index and checksums.

    Examples:

        protoocc pack

        protoocc pack --masks sam --samples-per-shard 128

        protoocc pack --depth

        protoocc pack --depth-maps data/kitti-depth

        protoocc pack --no-images
    """
    from pipelines.pack import PackConfig
    from pipelines.pack import pack as run_pack

    dataset = load_dataset(datasets, name, out, root=root, version=version)
    maps = None if depth_maps is None else str(depth_maps)
    values = {"masks": masks, "samples_per_shard": samples_per_shard, "depth": depth, "images": not no_images}
    config = PackConfig(**values, depth_maps=maps)
    summary = run_with_bar(
        "pack",
        lambda runtime: run_pack(dataset, dataset.work, config, runtime),
        scheduler=make_scheduler(scheduler, workers, memory_limit),
        overwrite=overwrite,
        on_error=on_error,
        check_inputs=check_inputs,
    )
    if as_json:
        print_json(summary)
