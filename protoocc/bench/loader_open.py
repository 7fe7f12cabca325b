"""Time and memory of opening a large set of shards, in a fresh process: `python -m protoocc.bench.loader_open`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from pydantic import Field

from protoocc.shards import open_shards
from schemas.errors import StageError
from schemas.settings import Frozen


class Opened(Frozen):
    """What opening a split cost."""

    samples: int = Field(description="Samples that were listed.")
    seconds: float = Field(description="Until all of them were known and checked.")
    grown_mb: float | None = Field(
        description="Largest resident size of the process beyond the one just before, MB; None where only Linux knows."
    )


def open_apart(folder: Path, split: str) -> Opened:
    """Opens a split in a new process.

    Raises:
        StageError: the process failed.
    """
    command = [sys.executable, "-m", "protoocc.bench.loader_open", str(folder), split]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"opening {folder} in a process of its own failed: {done.stderr[-1000:]}")
    return Opened.model_validate_json(done.stdout)


def _main(folder: str, split: str) -> None:
    before = _resident_bytes("VmRSS")
    started = time.perf_counter()
    shards = open_shards(Path(folder), split)
    seconds = time.perf_counter() - started
    grown = None if before is None else ((_resident_bytes("VmHWM") or 0) - before) / 1e6
    sys.stdout.write(Opened(samples=len(shards.samples), seconds=seconds, grown_mb=grown).model_dump_json())


def _resident_bytes(name: str) -> int | None:
    """A size that Linux keeps of this process; what `getrusage` says includes the process that started it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    _main(*sys.argv[1:])
