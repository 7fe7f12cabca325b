"""Files of a stage: whole or absent (`schemas.files`), as JSON, their hashes, and what a killed run left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.files import PARTIAL, write_blocks, write_bytes

__all__ = ["PARTIAL", "remove_partials", "sha256_of", "write_blocks", "write_bytes", "write_json"]


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
