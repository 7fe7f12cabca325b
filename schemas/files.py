"""Files that are whole or absent: temporary name, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from schemas.errors import disk_errors

PARTIAL: Final = ".partial"
"""Ending of a file that is being written."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``path`` so that a reader or a crash sees either all of it or nothing.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    write_blocks(path, (data,))


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """`write_bytes` for a file that comes in blocks, of which memory holds one at a time."""
    temporary = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines(blocks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
