"""Ctrl-C and SIGTERM: one line, no traceback, no process left, exit code 130 or 143, whatever the program is doing.

A thread of its own ends the program, because the main one may sit in Dask, in a lock or in a long kernel, and whoever
unwinds there can hang or print. Ending at once is safe: every stored file is whole or absent, as after a kill. Worker
processes never see a Ctrl-C of the terminal (they inherit it blocked) and are killed from here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = "\x1b[?25h"


@contextmanager
def quiet_start() -> Iterator[None]:
    """While the program is being imported: a signal ends it with one line. Worker processes import it as well."""
    if "--multiprocessing-fork" in sys.orig_argv or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, frame: _end(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """While the block runs, a signal ends this process and all that it started."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _wait) for number in SIGNALS}
    _forget_in_forks()
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="signals").start()
    _block(signal.SIG_BLOCK)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        _block(signal.SIG_UNBLOCK)
        os.close(writer)


def _wait(number: int, frame: Any) -> None:
    """The number is in the pipe by now: the main thread does nothing more while the other one ends the program."""
    time.sleep(60)


def _block(how: int) -> None:
    """Keeps Ctrl-C from this thread and from what it starts; the watching thread began without."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(how, {signal.SIGINT})


@cache
def _forget_in_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """In a forked child, such as a reader of shards: its signals are none of its parent's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(reader: int) -> None:
    """Waits for the first signal of `SIGNALS`, or for the end of the block."""
    while data := os.read(reader, 1):
        if data[0] in SIGNALS:
            _end(data[0])
    os.close(reader)


def how_to_go_on() -> str:
    """What whoever stopped the program reads."""
    again = "run again with --resume" if "train" in sys.argv[1:] and "--resume" not in sys.argv else "run again"
    return f"stopped; {again} to go on"


def _end(number: int) -> None:
    """Says so, kills what was started, gives locks back and ends the process."""
    terminal = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # silences bars, and children that are born meanwhile
    start = f"{_SHOW_CURSOR}\n" if os.isatty(terminal) else ""
    is_other = os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ  # of torchrun: one talks
    with suppress(OSError):
        os.write(os.open(os.devnull, os.O_WRONLY) if is_other else terminal, f"{start}{how_to_go_on()}\n".encode())
    _kill_children()
    if lock := sys.modules.get("schemas.lock"):
        lock.release_all()
    os._exit(128 + number)


def _kill_children() -> None:
    """Kills the processes below this one, and lets the one that removes their semaphores do so."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    spared = getattr(getattr(tracker, "_resource_tracker", None), "_pid", None)
    processes = sys.modules.get("multiprocessing")  # importing it here could wait for the main thread
    own = {process.pid for process in processes.active_children() if process.pid} if processes else set()
    for child in (own | set(_below(os.getpid()))) - {spared}:
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _below(parent: int) -> Iterator[int]:
    """Processes that a process has started, and theirs, where the system lists them below /proc."""
    started: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            started.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    waiting = [parent]
    while waiting:
        children = started.get(waiting.pop(), [])
        yield from children
        waiting += children
