"""`protoocc bench attention`: deformable attention against the way of other networks."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.bench_table3 import generated_rig
from cli.options import Json
from cli.progress import progress_bar
from cli.say import answers, say

if TYPE_CHECKING:
    from rich.table import Table

    from protoocc.bench.attention import AttentionBench, AttentionRow


def attention(
    size: Annotated[
        Literal["tiny", "small", "base"], typer.Option("--size", help="Voxel queries of this PanoOcc preset.")
    ] = "small",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds of timing.")] = 3,
    as_json: Json = False,
) -> None:
    """Deformable attention, forward and backward: each implementation beside the padded way of other networks.

    One encoder layer of PanoOcc on six images of 432 x 800. On a GPU it measures float32 and bfloat16.

    Examples:

        protoocc bench attention

        protoocc bench attention --size tiny --rounds 5 --json
    """
    from protoocc.bench.attention import measure_attention
    from protoocc.inference import default_device

    with progress_bar("attention", "runs") as update:
        result = measure_attention(generated_rig(), default_device(), size=size, rounds=rounds, on_progress=update)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        _print(result)


def _print(result: AttentionBench) -> None:
    out = answers()
    for name, rows in groupby(result.rows, key=lambda row: f"{row.attention} attention, {row.dtype}"):
        out.print(_table(name, list(rows)))
    out.print(
        f"One layer of panoocc-{result.size}; {result.device}; calibration: {result.calibration}; best of "
        f"{result.rounds} rounds. padded: grid_sample over all cameras padded to the fullest one. Differences are from "
        "a float64 reference, those of gradients over the largest gradient.",
        style="dim",
    )
    for reason in result.left_out:
        say(f"left out: {reason}", "dim")


def _table(name: str, rows: list[AttentionRow]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    shown = Table(title=f"{name} (copying its bytes takes {rows[0].copy_limit_s:.4f} s)", box=SIMPLE)
    shown.add_column("")
    for title in ("forward s", "faster", "backward s", "faster", "differs", "gradients"):
        shown.add_column(title, justify="right")
    for row in rows:
        shown.add_row(
            row.implementation,
            f"{row.forward_s:.4f}",
            _times(row.forward_speedup),
            f"{row.backward_s:.4f}",
            _times(row.backward_speedup),
            f"{row.difference:.1e}",
            f"{row.gradient_difference:.1e}",
        )
    return shown


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} x"
