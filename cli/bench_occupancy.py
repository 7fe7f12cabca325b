"""The command `bench occupancy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.given import refuse
from cli.options import DATASETS_YAML, Datasets, Json, load_dataset
from cli.say import answers, say

if TYPE_CHECKING:
    from pipelines.bench_occupancy import OccupancyBench
    from schemas.datasets import DatasetSpec


def occupancy(
    keyframes: Annotated[int, typer.Option("--keyframes", min=1, help="Keyframes of the generated scene.")] = 8,
    sweeps: Annotated[int, typer.Option("--sweeps", min=0, max=9, help="Its sweeps between two keyframes.")] = 9,
    thresholds: Annotated[
        str, typer.Option("--thresholds", help="default, paper, release-like or evidence.")
    ] = "default",
    name: Annotated[
        str | None, typer.Option("--dataset", help="Measure a prepared dataset instead.", show_default=False)
    ] = None,
    datasets: Datasets = DATASETS_YAML,
    as_json: Json = False,
) -> None:
    """Measure labels from sweeps: core-seconds per keyframe by step, memory, and a bare ray traversal beside them.

    Examples:

        protoocc bench occupancy

        protoocc bench occupancy --keyframes 40 --json

        protoocc bench occupancy --dataset nuscenes-mini
    """
    import tempfile

    from cli.sources import occupancy_source
    from pipelines.bench_occupancy import bench_occupancy
    from pipelines.occupancy import LidarConfig

    refuse(("keyframes", "sweeps"), name is not None, "--dataset is measured as it was prepared")
    refuse(("datasets",), name is None, "a generated scene is measured; name an entry with --dataset")
    config = occupancy_source("lidar", thresholds)
    if not isinstance(config, LidarConfig):
        raise TypeError(f"{config} is not for sweeps")
    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as folder:
        scratch = Path(folder)
        dataset = load_dataset(datasets, name, None) if name else _generate(scratch, keyframes, sweeps)
        result = bench_occupancy(dataset, dataset.work, scratch / "stores", config)
    if as_json:
        _print_json(result)
    else:
        _print_table(result)


def _generate(scratch: Path, keyframes: int, sweeps: int) -> DatasetSpec:
    """A prepared scene of the generated world; its images are small, labels do not depend on their size."""
    from pipelines.prepare import prepare
    from pipelines.scheduler import Scheduler
    from pipelines.stage import Runtime
    from pipelines.synth import SynthConfig, generate_world
    from schemas.datasets import DatasetSpec, SplitSpec
    from schemas.images import ImageSpec

    say(f"generating a scene of {keyframes} keyframes with {sweeps} sweeps between two ...")
    config = SynthConfig(scenes=1, keyframes=keyframes, sweeps_per_keyframe=sweeps, image_width=160, seed=0)
    generate_world(scratch / "world", config)
    dataset = DatasetSpec(
        name="bench",
        format="nuscenes",
        root=scratch / "world",
        version="v1.0-synth",
        work=scratch / "work",
        image=ImageSpec(resize=(160, 90), crop=(0, 0, 160, 90)),
        splits={"train": SplitSpec(scenes=("synth-0000",))},
    )
    prepare(dataset, dataset.work, Runtime(scheduler=Scheduler(kind="sync")))
    return dataset


def _print_json(result: OccupancyBench) -> None:
    import dataclasses
    import json

    figures = dataclasses.asdict(result) | {"core_seconds_per_keyframe": result.total, "times_traversal": result.ratio}
    typer.echo(json.dumps(figures, indent=1))


def _print_table(result: OccupancyBench) -> None:
    title = f"{result.keyframes} keyframes of {result.sweeps_per_keyframe:.1f} sweeps, one process, kernels compiled"
    table = Table(title=title, title_justify="left")
    table.add_column("step")
    table.add_column("core-seconds per keyframe", justify="right")
    table.add_column("share", justify="right")
    for step, seconds in result.seconds_per_keyframe.items():
        table.add_row(step, f"{seconds:.3f}", f"{100 * seconds / result.total:.1f} %")
    table.add_section()
    table.add_row("all", f"{result.total:.3f}", "100 %")
    limit = result.traversal_seconds_per_keyframe
    table.add_row("limit: bare traversal of the same rays", f"{limit:.3f}", f"{100 * limit / result.total:.1f} %")
    stdout = answers()
    stdout.print(table)
    steps = f"{result.million_steps_per_keyframe:.1f} million voxels passed per keyframe"
    stdout.print(f"{result.ratio:.1f} times the bare traversal ({steps}); peak memory {result.peak_memory_gb:.2f} GB")
