"""Shared memory: the locks of worker processes and the batches they hand over live there; containers often lack it."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
from pathlib import Path
from typing import Final

from schemas.errors import SetupError

FOLDER: Final = Path("/dev/shm")
"""Where Linux keeps it; other systems have no folder for it."""
GIVE_MORE: Final = "Give it more (a container: docker run --shm-size=8g; else mount -o remount,size=8g /dev/shm)"

_LOCKS: Final = 16
_LOCKS_OF_A_WORKER: Final = 8
"""More than Dask, a process pool and a loader of batches take, and few enough to be taken in a millisecond."""
_NO_ROOM: Final = (errno.ENOSPC, errno.ENOMEM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS)


def check_shared_memory(workers: int, instead: str) -> None:
    """Takes as many locks as so many worker processes need, and gives them back.

    Whoever only meets the lack of them while workers start hangs for a minute, or prints pages of tracebacks.

    Args:
        workers: processes to be started.
        instead: how to do without them, to follow "or".

    Raises:
        SetupError: shared memory is full, read-only or not there.
    """
    try:
        locks = [multiprocessing.Lock() for _ in range(_LOCKS + _LOCKS_OF_A_WORKER * workers)]
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SetupError(
            f"worker processes need shared memory, and there is none ({error.strerror}; {describe_room()}). "
            f"{GIVE_MORE}, or {instead}."
        ) from error
    del locks


def describe_room() -> str:
    """How large shared memory is and what is left of it."""
    try:
        total, _, free = shutil.disk_usage(FOLDER)
    except OSError:
        return "its size is unknown"
    return f"{FOLDER} has {_mebibytes(total)}, {_mebibytes(free)} of them free"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
