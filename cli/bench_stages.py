"""The command `bench stages`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cli.options import Json, MemoryLimit, Workers
from cli.progress import console, make_scheduler

if TYPE_CHECKING:
    from pipelines.bench_stages import StageCost

LIMITS: Final = {"seconds": 60.0, "rerun_s": 10.0, "driver_mb": 600.0, "worker_mb": 600.0, "growth": 2.2}
"""What a stage may cost beside its work for all of nuScenes on two cores; growth: time by that of half the samples."""


def stages(
    samples: Annotated[int, typer.Option("--samples", min=80, help="Keyframes of the generated log.")] = 34149,
    scratch: Annotated[
        Path | None,
        typer.Option(
            "--scratch", help="Keep its files, in DIR/bench; by default they are removed.", show_default=False
        ),
    ] = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Measure what plans, tasks and markers of every stage cost beside its work, on a log as long as you say.

    The log is generated: 34 boxes and 9 sweeps per keyframe, no images; needs about 25 kB of disk per keyframe. Half of
    it is measured first, as time must grow with the number of samples and memory must not.

    Examples:

        protoocc bench stages

        protoocc bench stages --samples 5000 --json
    """
    import tempfile

    from pipelines.bench_stages import bench_stages

    scheduler = make_scheduler("processes", workers, memory_limit)
    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as temporary:
        folder = scratch or Path(temporary)
        half, full = (
            bench_stages(folder / "bench", count, scheduler, partial(_say, count)) for count in (samples // 2, samples)
        )
    rows = [_figures(cost, smaller) for cost, smaller in zip(full, half, strict=True)]
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows, samples)


def _say(count: int, stage: str) -> None:
    console.print(f"{stage} of {count} samples ...", highlight=False)


def _figures(cost: StageCost, smaller: StageCost) -> dict[str, float | int | str]:
    """One row of the answer."""
    import dataclasses

    return dataclasses.asdict(cost) | {"task_ms": cost.task_ms, "growth": cost.seconds / smaller.seconds}


def _print_json(rows: list[dict[str, float | int | str]]) -> None:
    import json

    typer.echo(json.dumps({"stages": rows, "limits": LIMITS}, indent=1))


COLUMNS: Final = {
    "tasks": ("tasks", "{}"),
    "plan_s": ("plan", "{:.1f}"),
    "task_ms": ("task", "{:.1f}"),
    "cpu_s": ("cpu", "{:.1f}"),
    "seconds": ("in all", "{:.1f}"),
    "rerun_s": ("again", "{:.2f}"),
    "growth": ("x half", "{:.2f}"),
    "driver_mb": ("driver", "{:.0f}"),
    "worker_mb": ("worker", "{:.0f}"),
}
"""Field -> title and format."""


def _print_table(rows: list[dict[str, float | int | str]], samples: int) -> None:
    title = (
        f"{samples} samples without the work: seconds, milliseconds per task, time by half the samples, memory in MB"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("stage", no_wrap=True)
    for head, _ in COLUMNS.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["stage"]), *(_cell(name, row[name]) for name in COLUMNS))
    table.add_section()
    table.add_row("limit", *(COLUMNS[name][1].format(LIMITS[name]) if name in LIMITS else "" for name in COLUMNS))
    Console(highlight=False).print(table)


def _cell(name: str, value: float | int | str) -> str:
    """The figure, marked where it exceeds its limit."""
    text = COLUMNS[name][1].format(value)
    return f"[red]{text} ![/red]" if name in LIMITS and float(value) > LIMITS[name] else text
