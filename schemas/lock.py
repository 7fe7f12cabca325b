"""One writer per folder: a lock file that names host, process and start, and that outlives no process.

The lock lies beside the folder (`<folder>.lock`), because a folder may be put in place by a rename; where the parent
cannot be written it lies inside. Two writers that start at the same moment are told apart by exclusive creation.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from schemas.errors import ConfigError, DataError, disk_errors
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import LOCK_BYTES

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows: exclusive creation alone decides
    fcntl = None  # type: ignore[assignment]

LOCK_SUFFIX: Final = ".lock"
_held: Final = set[Path]()
"""Lock files of this process."""
_PATIENCE_S: Final = 2.0
"""A lock that stays empty for so long belongs to a process that died while it wrote it."""


class Holder(NamedTuple):
    """The process that writes a folder."""

    host: str
    pid: int
    start: str
    """When the process started, as its system tells it: a number that is used again has another start."""
    since: str
    """Time of day when it took the lock, for people."""

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(platform.node(), os.getpid(), process_start(os.getpid()) or "unknown", since)

    @property
    def may_live(self) -> bool:
        """Whether the process may still run: on another host nobody knows."""
        return self.host != platform.node() or process_start(self.pid) == self.start


def process_start(pid: int) -> str | None:
    """Start of a process of this host, None where there is none: boot and clock ticks, or what `ps` says."""
    if Path("/proc/self/stat").is_file():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        boot = Path("/proc/sys/kernel/random/boot_id")
        return None if fields[0] == "Z" else f"{boot.read_text().strip() if boot.is_file() else ''}:{fields[19]}"
    try:
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or None


def lock_path(folder: Path) -> Path:
    """Lock file of a folder; the folder itself need not exist."""
    folder = folder.absolute()
    if os.access(folder.parent, os.W_OK) or not folder.is_dir():
        return folder.with_name(folder.name + LOCK_SUFFIX)
    return folder / LOCK_SUFFIX


@contextmanager
def held_alone(path: Path, flags: int) -> Iterator[int | None]:
    """Opens a file or folder and waits until nobody else holds it so; None where the system has no such locks.

    The lock ends with the block, and with the process. A file system without locks gives the open file all the same.
    """
    if fcntl is None:
        yield None
        return
    file = os.open(path, flags, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder while the block runs.

    Raises:
        ConfigError: another process that may still run holds it; names host, process, start and the lock file.
        DataError: the lock cannot be written.
    """
    path = lock_path(folder)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _take(folder, path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with suppress(OSError):
            path.unlink()


def holder_of(folder: Path) -> Holder | None:
    """The process that writes a folder and may still run; None where nobody does."""
    holder = _read(lock_path(folder))
    return holder if holder is not None and holder.may_live else None


def release_all() -> None:
    """Gives all locks back, for a process that ends at once."""
    for path in list(_held):
        with suppress(OSError):
            path.unlink()


def _take(folder: Path, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with held_alone(path.parent, os.O_RDONLY):  # one process at a time looks at a dead one's lock and takes it over
            if _create(path):
                return
            holder = _read(path)
            is_dead = not holder.may_live if holder else time.monotonic() > deadline
            if is_dead:
                path.unlink(missing_ok=True)
                continue
        if holder:
            raise ConfigError(
                f"{folder} is being written by process {holder.pid} on {holder.host}, started {holder.since}. Wait for "
                f"it or stop it; if it no longer runs, remove {path}."
            )
        time.sleep(0.05)


def _create(path: Path) -> bool:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(file, json.dumps(Holder.this()._asdict()).encode())
    finally:
        os.close(file)
    return True


def _read(path: Path) -> Holder | None:
    """Who holds the lock; None while it is being written, or where it says nothing sensible."""
    try:
        source = Source(str(path))
        values = parse_json(source, read_bytes(source, path, LOCK_BYTES), LOCK_BYTES)
        return Holder(str(values["host"]), int(values["pid"]), str(values["start"]), str(values["since"]))
    except (DataError, ValueError, KeyError, TypeError):
        return None
