"""Files of a stage: whole or absent (`schemas.files`), as JSON, their hashes, and what a killed run left."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.files import PARTIAL, write_blocks, write_bytes

__all__ = [
    "PARTIAL",
    "folder_bytes",
    "names_fingerprint",
    "remove_partials",
    "sha256_of",
    "write_blocks",
    "write_bytes",
    "write_json",
]


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


def names_fingerprint(folder: Path) -> str:
    """SHA-256 over the sorted names in a folder; `absent` where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


def remove_partials(folder: Path) -> None:
    """Removes temporary files that a killed run left below ``folder``."""
    for entry in _files_below(folder):
        if entry.name.endswith(PARTIAL):
            Path(entry.path).unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Size of all files below ``folder``, bytes; 0 where there is no such folder."""
    total = 0
    for entry in _files_below(folder):
        with suppress(FileNotFoundError):  # a running stage renames its files
            total += entry.stat().st_size
    return total


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file once, in any order; a store of all nuScenes has half a million folders, too many for `Path.rglob`."""
    waiting = [str(folder)]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry
