"""Progress without a terminal: a line with rate and time left now and then, for log files and batch systems."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from cli.say import say

LINE_EVERY_S: Final = 30.0


class ProgressLines:
    """Prints a line every ``every_s`` seconds while its block runs, also when nothing finishes, and one at the end."""

    def __init__(
        self,
        title: str,
        unit: str,
        *,
        every_s: float = LINE_EVERY_S,
        write: Callable[[str], None] = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._unit, self._every_s, self._write, self._clock = title, unit, every_s, write, clock
        self._done, self._total, self._note = 0, 0, ""
        self._first: int | None = None
        self._started = clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress of {title}", daemon=True)

    def __enter__(self) -> Self:
        """Starts the clock."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Prints the last line, unless nothing had begun."""
        self._over.set()
        self._thread.join()
        if self._total:
            self._write(self.line())

    def update(self, done: int, total: int, note: str = "") -> None:
        """Finished and total samples (or steps); what was finished at the first call does not count for the rate."""
        if self._first is None:
            self._first = done
        self._done, self._total, self._note = done, total, note

    def line(self) -> str:
        """Such as `masks: 120 / 404 samples (30 %), 2.00/s, 0:01:00 so far, 0:02:22 left`."""
        seconds = self._clock() - self._started
        rate = (self._done - (self._first or 0)) / max(seconds, 1e-9)
        text = f"{self._title}: {self._done} / {self._total or '?'} {self._unit}"
        if self._total:
            text += f" ({100 * self._done // self._total} %)"
        text += f", {rate:.2f}/s, {_clock_time(seconds)} so far"
        if self._done < self._total and rate > 0:
            text += f", {_clock_time((self._total - self._done) / rate)} left"
        return f"{text}  {self._note}".rstrip()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._write(self.line())


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
