"""The table that `protoocc status` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cli.say import name_of, say, shown
from pipelines.status import StageRow, next_command

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Final = {"done": "green", "partial": "yellow", "outdated": "bold yellow", "missing": "dim"}


def print_status(rows: Sequence[StageRow], console: Console) -> None:
    """Table of the rows and the next command."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("stage", "state", "done", "dropped", "size", "folder"):
        table.add_column(header, justify="right" if header in ("done", "dropped", "size") else "left", overflow="fold")
    for row in rows:
        state = shown(row.state, STYLES[row.state]) + shown(f" ({row.detail})" if row.detail else "")
        count = "" if row.state == "missing" else str(row.done)
        count += f" / {row.total}" if count and row.total is not None else ""
        size = f"{row.num_bytes / 1e6:.1f} MB" if row.num_bytes else ""
        table.add_row(shown(row.stage), state, count, str(row.dropped or ""), size, shown(name_of(row.folder)))
    console.print(table)
    say(f"\nNext: {next_command(rows)}", to=console)
