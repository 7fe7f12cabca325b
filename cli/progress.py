"""Progress bars with rate and time left, and the summary at the end of a stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as ProgressTask
from rich.text import Text

from cli.label_counts import describe_counts
from cli.progress_lines import ProgressLines
from cli.say import console, name_of, say

if TYPE_CHECKING:
    from pipelines.scheduler import Scheduler
    from pipelines.stage import StageSummary


class Update(Protocol):
    """Moves a bar; ``note`` stands behind it."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Finished and total samples (or steps)."""


class RateColumn(ProgressColumn):
    """Samples (or steps) per second."""

    def render(self, task: ProgressTask) -> Text:
        """Rate since the start, with two digits."""
        speed = task.finished_speed or task.speed
        return Text("  -.--/s" if speed is None else f"{speed:6.2f}/s", style="cyan")


@contextmanager
def progress_bar(title: str, unit: str = "samples") -> Iterator[Update]:
    """Shows a bar while the block runs; without a terminal, a line every `LINE_EVERY_S` seconds and one at the end.

    Yields:
        ``update(done, total)``, to be called as work finishes.
    """
    if not console.is_terminal:
        with ProgressLines(title, unit) as lines:
            yield lines.update
        return
    columns = (
        TextColumn("[bold]{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn(unit),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def make_scheduler(kind: str, workers: int | None = None, memory_limit: str | None = None) -> Scheduler:
    """Scheduler of a stage, from `--scheduler`, `--workers` and `--memory-limit`.

    Raises:
        ConfigError: an unknown word or a limit that makes no sense.
    """
    from cli.options import check_parallel
    from pipelines.scheduler import Scheduler

    check_parallel(kind)
    return Scheduler(kind=kind, workers=workers, memory_limit=memory_limit)


def describe(summary: StageSummary) -> str:
    """One line: what was done, how fast, how much, where."""
    if summary.skipped:
        return f"{summary.name}: already done, {summary.done} samples in {name_of(summary.folder)}"
    rate = summary.done / max(summary.seconds, 1e-9)
    dropped = f", {len(summary.dropped)} dropped" if summary.dropped else ""
    return (
        f"{summary.name}: {summary.done} samples{dropped} in {summary.seconds:.1f} s ({rate:.2f}/s), "
        f"{summary.num_bytes / 1e6:.1f} MB in {name_of(summary.folder)}"
    )


def print_summary(summary: StageSummary) -> None:
    """Prints `describe`, the reasons of dropped samples and the stage's own figures."""
    say(describe(summary))
    for token, reason in list(summary.dropped.items())[:5]:
        say(f"  dropped {name_of(token)}: {reason}", "yellow")
    for line in describe_counts(summary.counts):
        say(f"  {line}", "yellow")
