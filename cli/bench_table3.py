"""`protoocc bench table3`: the paper's Table 3 measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import refuse
from cli.options import DATASETS_YAML, Datasets, Json, load_dataset
from cli.progress import progress_bar
from cli.say import answers

if TYPE_CHECKING:
    from protoocc.bench.table3 import Rig, Table3
    from schemas.datasets import DatasetSpec


def table3(
    name: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Entry of datasets.yaml whose first keyframe gives the calibration; a generated vehicle by default.",
            show_default=False,
        ),
    ] = None,
    datasets: Datasets = DATASETS_YAML,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Only this preset and the first row; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds of timing.")] = 3,
    memory: Annotated[bool, typer.Option("--memory", help="Also run a training step of each preset.")] = False,
    as_json: Json = False,
) -> None:
    """Size, work and time of the view transformation of every network, beside the paper's Table 3.

    Examples:

        protoocc bench table3

        protoocc bench table3 --dataset nuscenes --memory

        protoocc bench table3 --model protoocc-small --json
    """
    from protoocc.bench.table3 import measure_table3, with_memory
    from protoocc.inference import default_device

    refuse(("datasets",), name is None, "a generated vehicle is measured; name an entry with --dataset")
    rig = generated_rig() if name is None else _dataset_rig(load_dataset(datasets, name, None))
    with progress_bar("table3", "runs") as update:
        table = measure_table3(rig, default_device(), presets=models, rounds=rounds, on_progress=update)
    if memory:
        with progress_bar("memory", "presets") as update:
            table = with_memory(table, rig, on_progress=update)
    if as_json:
        typer.echo(table.model_dump_json(indent=1))
    else:
        _print(table)


def _dataset_rig(dataset: DatasetSpec) -> Rig:
    """Calibration of the first keyframe of a prepared dataset."""
    import torch

    from pipelines.zarr_io import open_store
    from protoocc.bench.table3 import Rig
    from schemas.workfolder import WorkFolder

    arrays = open_store(WorkFolder(dataset.work).geometry, "geometry")
    matrices = [torch.tensor(arrays[name][0]).float() for name in ("image_from_camera", "camera_from_ego")]
    return Rig(f"first keyframe of {dataset.name}", dataset.image.shape, *matrices)


def generated_rig() -> Rig:
    """Calibration of a generated vehicle, with images of 450 x 800 cut to 432 x 800."""
    import numpy as np
    import torch

    from pipelines.synth.rig import CAMERAS, build_rig
    from protoocc.bench.table3 import Rig
    from schemas.geometry import invert_rigid

    mounts = build_rig((800, 450), np.random.default_rng(0))
    intrinsics = np.array([mounts[camera].image_from_camera for camera in CAMERAS])
    intrinsics[:, 1, 2] -= 18.0
    poses = np.stack([invert_rigid(mounts[camera].ego_from_sensor) for camera in CAMERAS])
    return Rig("a generated vehicle", (432, 800), torch.tensor(intrinsics).float(), torch.tensor(poses).float())


def _print(table: Table3) -> None:
    from rich.table import Table

    from protoocc.bench.table3 import BASE

    shown = Table(
        title="View transformation, one frame (in brackets: the paper's figures)",
        caption=f"{table.device}; cameras of {table.calibration}; best of {table.rounds} rounds. 'paper' counts as the "
        "paper does; 'true' is torch's flop counter, temporal fusion included; ratio: time over the first row's.",
    )
    shown.add_column("network, image")
    for title in ("params M", "GFLOPs paper", "GFLOPs true", "seconds", "ratio", "training GB"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in table.rows:
        params, gflops, ratio = f"{row.params_m:.2f}", f"{row.gflops_paper:.1f}", f"{row.ratio:.2f}"
        if row.published is not None:
            milliseconds, published_gflops, published_params = row.published
            params += f" ({published_params:.2f})"
            gflops += f" ({published_gflops:.0f})"
            ratio += f" ({milliseconds / BASE.milliseconds:.2f})"
        name = f"{row.model}, {row.image_size[0]} x {row.image_size[1]}"
        memory = "-" if row.train_gb is None else f"{row.train_gb:.1f}"
        if row.recompute_gb is not None:
            memory = f"{row.recompute_gb:.1f} (recompute)"
        shown.add_row(name, params, gflops, f"{row.gflops_true:.1f}", f"{row.seconds:.3f}", ratio, memory)
    console = answers()
    console.width = max(console.width, 120)
    console.print(shown)
