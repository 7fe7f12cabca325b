"""Commands that measure: each compares with a known limit in one run, as only ratios within a run mean anything."""

from __future__ import annotations

import typer

from cli.bench_attention import attention
from cli.bench_inference import inference
from cli.bench_loader import loader
from cli.bench_masks import masks
from cli.bench_occupancy import occupancy
from cli.bench_stages import stages
from cli.bench_stores import stores
from cli.bench_table2 import table2
from cli.bench_table3 import table3
from cli.given import add_command

bench = typer.Typer(
    name="bench",
    help="Measure parts of the program against their limits, in one run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (stages, stores, occupancy, masks, table2, table3, attention, inference, loader):
        add_command(bench, command)
    app.add_typer(bench)
