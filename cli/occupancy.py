"""The command `occupancy`: makes or imports labels, writes them as Occ3D files, compares and checks them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.given import add_command, refuse
from cli.options import (
    DATASETS_YAML,
    Changes,
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
    load_dataset,
)

Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="occ3d: import labels.npz; openocc-v2, occ3d-waymo: the same with their classes and arrays; lidar: make "
        "labels; surroundocc, openoccupancy: import those sets; voxels: import SemanticKITTI's. Without it "
        "--write-npz, --write-voxels, --compare and --check use a finished store as it is.  [default: occ3d; "
        "semantickitti: voxels]",
        show_default=False,
    ),
]
Thresholds = Annotated[
    str | None,
    typer.Option(
        "--thresholds",
        help="Thresholds of --source lidar: default, paper, release-like, evidence (default without the voxels that "
        "the keyframe's own rays pass too often) or semantickitti, which is that format's default.  [default: default]",
        show_default=False,
    ),
]
LabelFolder = Annotated[
    Path | None, typer.Option("--labels", help="Files of surroundocc, openoccupancy or voxels.", show_default=False)
]
Resample = Annotated[bool, typer.Option("--resample", help="Bring imported labels into a grid that is not their own.")]
ImageLabelFolder = Annotated[
    str | None,
    typer.Option(
        "--image-labels",
        help="Let --source lidar name points and free voxels by classes of pixels: FOLDER/SCENE/SAMPLE_TOKEN/"
        "CAMERA.png below the dataset's root, or class-images, which `masks --generator classes` makes.",
        show_default=False,
    ),
]
WriteNpz = Annotated[
    Path | None,
    typer.Option("--write-npz", help="Also write DIR/gts/SCENE/TOKEN/labels.npz.", show_default=False),
]
WriteVoxels = Annotated[
    Path | None,
    typer.Option(
        "--write-voxels",
        help="SemanticKITTI: also write DIR/sequences/NN/voxels with .label, .invalid, .occluded and .bin files.",
        show_default=False,
    ),
]
Compare = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        help="Compare with labels taken as right: a folder of Occ3D's; semantickitti: of sequences.",
        show_default=False,
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Check labels against LiDAR returns, boxes and camera rays.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, occupancy)


def occupancy(
    source: Source = None,
    thresholds: Thresholds = None,
    labels: LabelFolder = None,
    resample: Resample = False,
    image_labels: ImageLabelFolder = None,
    changes: Changes = None,
    write_npz: WriteNpz = None,
    write_voxels: WriteVoxels = None,
    compare: Compare = None,
    check: Check = False,
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
    """Make or import occupancy labels with LiDAR and camera visibility masks; write, compare and check them.

    Examples:

        protoocc occupancy --source lidar --dataset nuscenes-mini --workers 4

        protoocc occupancy --source lidar --thresholds release-like --set free_above=5 --set use_map=true

        protoocc occupancy --source lidar --thresholds evidence --set evidence.ratio=0.3 --check

        protoocc occupancy --write-npz labels/mini --dataset nuscenes-mini

        protoocc occupancy --source voxels --dataset semantickitti --write-voxels out

        protoocc occupancy --compare data/synthetic --dataset synthetic --json

        protoocc occupancy --check --dataset nuscenes-mini
    """
    from cli.data import print_json, run_with_bar
    from cli.label_reports import report_check, report_comparison, report_voxel_comparison
    from cli.progress import make_scheduler
    from cli.sources import occupancy_source, print_label_shares, print_releases
    from schemas.workfolder import MANIFEST, WorkFolder

    dataset = load_dataset(datasets, name, out, root=root, version=version)
    where = make_scheduler(scheduler, workers, memory_limit)
    run = partial(run_with_bar, scheduler=where, overwrite=overwrite, on_error=on_error, check_inputs=check_inputs)
    is_finished = (WorkFolder(dataset.work).occupancy / MANIFEST).is_file()
    wants_more = write_npz is not None or write_voxels is not None or compare is not None or check
    uses_finished = source is None and is_finished and wants_more
    refuse(
        ("thresholds", "labels", "resample", "image_labels", "changes"),
        uses_finished,
        "the finished store is used as it is; name its --source to make labels",
    )
    only_looks = uses_finished and write_npz is None and write_voxels is None
    refuse(
        ("overwrite", "on_error", "check_inputs"), only_looks, "nothing is made; name a --source to make labels again"
    )
    summary, answer = None, dict[str, Any]()
    if not uses_finished:
        from pipelines.occupancy import PRESET_OF_FORMAT, SOURCE_OF_FORMAT, make_occupancy

        config = occupancy_source(
            source or SOURCE_OF_FORMAT[dataset.format].kind,
            thresholds or PRESET_OF_FORMAT[dataset.format],
            labels=labels,
            resample=resample,
            image_labels=image_labels,
            changes=changes or (),
        )
        summary = run("occupancy", lambda runtime: make_occupancy(dataset, dataset.work, config, runtime))
        print_label_shares(summary)
        print_releases(summary)
    if write_npz is not None:
        from pipelines.occupancy.export import write_label_files

        summary = run("npz", lambda runtime: write_label_files(dataset, dataset.work, write_npz, runtime))
    if write_voxels is not None:
        from pipelines.occupancy.export_voxels import write_voxel_files

        summary = run("voxels", lambda runtime: write_voxel_files(dataset, dataset.work, write_voxels, runtime))
    if compare is not None:
        report = report_voxel_comparison if dataset.format == "semantickitti" else report_comparison
        answer |= report(dataset, compare, where)
    if check:
        answer |= report_check(dataset, where)
    if as_json and answer:
        typer.echo(json.dumps(answer, indent=1))
    elif as_json and summary is not None:
        print_json(summary)
