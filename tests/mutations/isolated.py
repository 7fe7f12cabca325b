"""Runs a function in a process of its own and measures it, so that a crash, a hang or a memory bomb is a figure."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

from schemas.errors import ProtoOccError

PATIENCE_S = 60.0
"""A child that takes longer is killed, whatever it does."""


class Outcome(NamedTuple):
    """What became of one call."""

    kind: str
    """accepted, refused (an error of `schemas.errors`), escaped (another exception), crashed or hung."""
    detail: str
    """What was returned, or the text of the error."""
    seconds: float
    """Time on the processor."""
    extra_mb: float
    """Peak of resident memory above that before the call."""
    wall_s: float = 0.0
    """Time on the clock of the wall, sleep included, but not what it waited for the processor."""


def run_isolated(work: Callable[[], str]) -> Outcome:
    """Forks, calls, measures."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(work, writing)
    os.close(writing)
    return _read(child, reading)


def _be_child(work: Callable[[], str], writing: int) -> None:
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before_mb, started, began = _memory_mb("VmRSS"), time.process_time(), _own_time_s()
        kind, detail = _call(work)
        figures = (time.process_time() - started, _memory_mb("VmHWM") - before_mb, _own_time_s() - began)
        os.write(writing, json.dumps([kind, detail[:8000], *figures]).encode())
    finally:
        os._exit(0)


def _call(work: Callable[[], str]) -> tuple[str, str]:
    try:
        return "accepted", work()
    except ProtoOccError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except BaseException:
        return "escaped", traceback.format_exc()


def _read(child: int, reading: int) -> Outcome:
    data, deadline = b"", time.monotonic() + PATIENCE_S
    while select.select([reading], [], [], max(deadline - time.monotonic(), 0))[0]:
        part = os.read(reading, 65536)
        data += part
        if not part:
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    if data:
        values: list[Any] = json.loads(data)
        return Outcome(*values)
    kind = "hung" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "crashed"
    return Outcome(kind, f"status {status}", PATIENCE_S, 0.0, PATIENCE_S)


def _own_time_s() -> float:
    """Clock that stands still while other programs have the processor."""
    waited_ns = int(Path("/proc/self/schedstat").read_text().split()[1])
    return time.monotonic() - waited_ns / 1e9


def _memory_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 0.0 if found is None else int(found[1]) / 1024
