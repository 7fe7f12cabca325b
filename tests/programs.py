"""Programs of their own in tests: the command line and Dask clusters, with all the processes that they start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.files import sha256_of

ROOT = Path(__file__).parents[1]
MAIN = "from cli.main import main; main()"
TEMPORARY = (".partial", ".lock", ".new", ".old")
"""Endings that nothing may have after success."""


class Program:
    """A process in a session of its own, which its children share, writing what it says to a file."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.said = folder / "said"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        self.pid = self._process.pid

    def wait(self, timeout_s: float = 300.0) -> int:
        """Its exit code."""
        return self._process.wait(timeout=timeout_s)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def catches_signals(self) -> bool:
        """Whether it has come to the lines that handle SIGTERM; before that it is Python that starts."""
        with suppress(OSError):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
            return bool(int(status.get("SigCgt", "0"), 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself in that time."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(seconds)
        return not self.is_running

    def workers(self) -> list[int]:
        """Processes that it has started for its tasks."""
        return [pid for pid in session(self.pid) if pid != self.pid and "spawn_main" in command_of(pid)]

    def kill_all(self) -> None:
        """SIGKILL for it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def command_line(folder: Path, *arguments: str) -> Program:
    """The program itself."""
    return Program(folder, sys.executable, "-c", MAIN, *arguments)


def session(pid: int) -> list[int]:
    """Processes that run in the session of a process, whether it still lives or not."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def command_of(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def wait_for(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder; folders of units that are left empty count as well."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):  # a running program renames its files
            found[path.relative_to(folder).as_posix()] = "" if path.is_dir() else sha256_of([path])
    return found


def temporary_files(folder: Path) -> list[str]:
    """Whatever looks like work that was not finished."""
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith(TEMPORARY))


class Cluster:
    """A Dask scheduler and workers as processes, each with a working folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.workers: list[Program] = []
        (folder / "scheduler").mkdir()
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self._file))
        self.scheduler = Program(folder / "scheduler", sys.executable, "-m", "dask", "scheduler", *options)
        wait_for(self._file.is_file)

    @property
    def address(self) -> str:
        """For `--scheduler`."""
        return str(json.loads(self._file.read_text())["address"])

    def start_worker(
        self, *options: str, dask: tuple[str, ...] = ("-m", "dask", "worker"), within: tuple[str, ...] = ()
    ) -> Program:
        """One more worker of one thread, started by other arguments of Python and by another program where given."""
        home = self._folder / f"worker-{len(self.workers)}"
        home.mkdir()
        options = ("--scheduler-file", str(self._file), "--nthreads", "1", "--no-dashboard", *options)
        self.workers.append(Program(home, *within, sys.executable, *dask, *options))
        wait_for(lambda: b"Registered to" in self.workers[-1].said.read_bytes())
        return self.workers[-1]

    def stop(self) -> None:
        """Ends all of it."""
        for program in (*self.workers, self.scheduler):
            program.kill_all()
