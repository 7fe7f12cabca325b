"""`protoocc bench table2`: the hosts of the paper's Table 2 measured here, with and without its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json
from cli.progress import progress_bar
from cli.say import answers

if TYPE_CHECKING:
    from protoocc.bench.table2 import Table2


def table2(
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Only this preset and its host; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=0, help="Interleaved rounds of timing; 0: none.")] = 3,
    as_json: Json = False,
) -> None:
    """Size, work and time of the hosts on SemanticKITTI, what the paper's parts add, and the paper's Table 2 beside.

    Examples:

        protoocc bench table2

        protoocc bench table2 --model voxformer-small-protoocc --rounds 0

        protoocc bench table2 --json
    """
    from protoocc.bench.table2 import measure_table2
    from protoocc.inference import default_device

    with progress_bar("table2", "predictions") as update:
        table = measure_table2(default_device(), presets=models, rounds=rounds, on_progress=update)
    if as_json:
        typer.echo(table.model_dump_json(indent=1))
    else:
        _print(table)


def _print(table: Table2) -> None:
    from rich.table import Table

    shown = Table(
        title="SemanticKITTI, one image of 370 x 1220",
        caption=f"{table.device}; random weights; best of {table.rounds} rounds. 'public': the public configuration, "
        "docs/networks.md says how it differs; '+': more than the host alone; IoU and mIoU as the paper prints them.",
    )
    shown.add_column("network")
    for title in ("params M", "public M", "+ params M", "GFLOPs", "+ GFLOPs", "ms", "IoU", "mIoU"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in table.rows:
        scores = ["-", "-"] if row.published is None else [f"{score:.2f}" for score in row.published]
        added = [_signed(row.added_params_m, 3), f"{row.gflops:.1f}", _signed(row.added_gflops, 1)]
        public = "-" if row.public_params_m is None else f"{row.public_params_m:.3f}"
        time = "-" if row.milliseconds is None else f"{row.milliseconds:.0f}"
        shown.add_row(row.model, f"{row.params_m:.3f}", public, *added, time, *scores)
    console = answers()
    console.width = max(console.width, 120)
    console.print(shown)


def _signed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"
