"""Files that are whole or absent: temporary name, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import disk_errors
from schemas.lock import held_alone

PARTIAL: Final = ".partial"
"""Ending of a file that is being written."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``path`` so that a reader or a crash sees either all of it or nothing; several writers take turns.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    write_blocks(path, (data,))


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """`write_bytes` for a file that comes in blocks, of which memory holds one at a time."""
    temporary = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _in_turn(temporary):
            try:
                with temporary.open("wb") as file:
                    file.writelines(blocks)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextmanager
def _in_turn(temporary: Path) -> Iterator[None]:
    """Makes the file and lets one writer of it work at a time; the turn ends with its process, however that ends."""
    while True:
        with held_alone(temporary, os.O_CREAT | os.O_WRONLY) as file:
            if file is None or _is_at(temporary, file):
                yield
                return


def _is_at(path: Path, file: int) -> bool:
    """Whether an open file still lies at ``path``; whoever had the turn before has put it in place or given up."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
