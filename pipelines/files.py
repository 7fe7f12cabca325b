"""Files that are whole or absent: temporary name, fsync, rename; hashes and leftovers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.errors import disk_errors

PARTIAL = ".partial"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``path`` so that a reader or a crash sees either all of it or nothing.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes sorted, indented JSON as `write_bytes` does: the same value gives the same bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files in the given order, hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def remove_partials(folder: Path) -> None:
    """Removes temporary files that a killed run left below ``folder``."""
    for leftover in sorted(folder.rglob("*" + PARTIAL)):
        leftover.unlink(missing_ok=True)
