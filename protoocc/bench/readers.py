"""Processes that read samples in different ways, one way at a time, all at once and timed from one start."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

from schemas.errors import ProtoOccError, StageError

_END_S: Final = 10.0
"""Libraries of others may start threads that do not end."""


@dataclass(frozen=True)
class Way:
    """How to read; made and used in the processes that read, so all of it can be sent there.

    Attributes:
        name: of the way.
        open: gives what reads number i.
    """

    name: str
    open: Callable[[], Callable[[int], object]]


class Readers:
    """Some processes, each of which knows all ways."""

    def __init__(self, ways: Sequence[Way], count: int) -> None:
        """Starts them; they open a way when it is first used.

        Args:
            ways: that may be asked for, by number.
            count: processes.
        """
        context = multiprocessing.get_context("spawn")
        self.ways, self._lines, self._processes = tuple(ways), list[Connection](), list[Any]()
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_read, args=(there, self.ways), daemon=True)
            process.start()
            there.close()
            self._lines.append(here)
            self._processes.append(process)

    def __enter__(self) -> Readers:
        """These."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the processes, if need be the hard way."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.join(_END_S if error is None else 0)
            process.terminate()
            process.join()

    def seconds(self, way: int, shares: Sequence[Sequence[int]]) -> float:
        """Reads in all processes and forgets what was read.

        Args:
            way: number of the way.
            shares: what each process reads, in order.

        Returns:
            Seconds from the common start until the last process is done; opening does not count.

        Raises:
            ProtoOccError: what reading raised.
            StageError: a process died, or a foreign error.
        """
        for line, share in zip(self._lines, shares, strict=True):
            line.send((way, list(share)))
        self._wait(way)
        started = time.perf_counter()
        for line in self._lines:
            line.send(None)
        self._wait(way)
        return time.perf_counter() - started

    def _wait(self, way: int) -> None:
        for line in self._lines:
            try:
                answer = line.recv()
            except EOFError as error:
                raise StageError(f"a process that reads by the way '{self.ways[way].name}' died") from error
            if isinstance(answer, ProtoOccError):
                raise answer
            if answer is not None:
                raise StageError(f"the way '{self.ways[way].name}' fails: {answer}")


def _read(line: Connection, ways: Sequence[Way]) -> None:
    """Answers until the line is closed: None, or what went wrong. Works as the processes of the loader do."""
    import cv2
    import torch

    from protoocc.data.loader import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    opened: dict[int, Callable[[int], object]] = {}
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            way, numbers = line.recv()
            try:
                if way not in opened:
                    opened[way] = ways[way].open()
                line.send(None)
                line.recv()
                for number in numbers:
                    opened[way](number)
                line.send(None)
            except EOFError:
                raise
            except ProtoOccError as error:
                line.send(error)
            except Exception as error:
                line.send(f"{type(error).__name__}: {error}")
