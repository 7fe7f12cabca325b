"""A running Dask cluster: what its workers must find as this process does, asked before they get work.

Tasks write their files themselves, so a worker that sees other folders would lose them, or write into a store of
somebody else. The lock of the stage's folder proves that they are the same: it names this process and its start. Raw
files that only some workers see would be dropped as missing, and other versions of libraries write other bytes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pipelines.files import names_fingerprint
from schemas.errors import SetupError
from schemas.lock import lock_path
from schemas.version import release

if TYPE_CHECKING:
    from distributed import Client

LIBRARIES: Final = ("numpy", "opencv-contrib-python", "zarr", "numcodecs", "isal", "scipy", "numba", "embreex", "torch")
"""Packages that decide stored bytes."""
PATIENCE_S: Final = 5.0
"""A network disk may show a new file late."""
POLL_S: Final = 0.5

Task = TypeVar("Task")
Result = TypeVar("Result")


def versions_here() -> tuple[tuple[str, str], ...]:
    """What decides stored bytes in this process: Python, this program, libraries."""
    found = [("Python", ".".join(platform.python_version_tuple()[:2])), ("protoocc", release())]
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "none"))
    return tuple(found)


@dataclass(frozen=True)
class Site:
    """What a stage's driver sees, to be compared on each worker."""

    folder: Path
    """Absolute path of the folder that is being made; this process holds its lock."""
    root: Path | None
    """Of the raw data."""
    lock: Path
    holder: bytes
    """Contents of the lock: host, process and start."""
    names: str
    """Hash of the names below ``root``."""
    versions: tuple[tuple[str, str], ...] = field(default_factory=versions_here)

    @classmethod
    def here(cls, folder: Path, root: Path | None) -> Site:
        """As this process sees it; it must hold the lock of ``folder``."""
        names = "" if root is None else names_fingerprint(root)
        lock = lock_path(folder)
        return cls(folder.absolute(), root, lock, lock.read_bytes(), names)

    @property
    def key(self) -> str:
        """Start of the names of all tasks that write this folder, whichever process sent them."""
        return f"{self.folder.name}@{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]}"


def difference(site: Site) -> str | None:
    """What this process finds otherwise than the driver, in words; None where nothing is."""
    other = [f"{name} {here} (driver: {there})" for (name, here), (_, there) in _pairs(site) if here != there]
    if other:
        return f"has {', '.join(other)}, which may write other bytes. Install the same versions"
    if not _sees_lock(site):
        return (
            f"does not see {site.folder} as the driver does. Put it on a disk that all machines mount at the same path"
        )
    if site.root is not None and names_fingerprint(site.root) != site.names:
        return f"does not see {site.root} as the driver does. Mount the raw data there at the same path"
    return None


def _pairs(site: Site) -> zip[tuple[tuple[str, str], tuple[str, str]]]:
    return zip(versions_here(), site.versions, strict=True)


def _sees_lock(site: Site) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not site.lock.is_file() or site.lock.read_bytes() != site.holder:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@cache
def _require(site: Site) -> None:
    """Raises SetupError where this process finds something else; asked once per process and run."""
    if (wrong := difference(site)) is not None:
        raise SetupError(f"the worker on {platform.node()} {wrong}, or run without it.")


@dataclass(frozen=True)
class OnSite(Generic[Task, Result]):
    """Work that asks first where it is: workers may join a cluster at any time."""

    site: Site
    work: Callable[[Task], Result]

    def __call__(self, task: Task) -> Result:
        """The result of the work; raises SetupError on a worker that sees something else."""
        _require(self.site)
        return self.work(task)


def check_workers(client: Client, site: Site) -> None:
    """Refuses a cluster of which a worker cannot do its work.

    Raises:
        SetupError: names the worker and what it lacks.
    """
    for address, answer in sorted(client.run(difference, site, on_error="return").items()):
        if isinstance(answer, Exception):
            answer = f"lacks this program, or has another version ({answer}). Start it where this one is installed"
        if answer is not None:
            raise SetupError(f"the worker {address} {answer}, or stop it.")


def wait_for_others(client: Client, site: Site, on_note: Callable[[str], None]) -> None:
    """Waits until no worker writes this folder for a driver that was killed: what it does cannot be taken back."""
    is_said = False
    while any(client.run(_running, site.key).values()):
        if not is_said:
            on_note(f"waiting for workers that still write {site.folder} for an earlier run")
        is_said = True
        time.sleep(POLL_S)


def _running(key: str, dask_worker: Any) -> int:
    """How many tasks with this start of their names the worker's threads are busy with, wanted or not."""
    return sum(str(task.key).startswith(key) for task in dask_worker.state.all_running_tasks)
