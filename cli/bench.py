"""Commands that measure: each compares with a known limit in one run, because only ratios within a run mean anything."""

from __future__ import annotations

import typer

bench = typer.Typer(
    name="bench",
    help="Measure parts of the program against their limits, in one run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.add_typer(bench)
