"""What a folder holds, for tests that compare whole folders."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_below(folder: Path) -> dict[str, bytes]:
    """Contents by relative path, in order: two equal results are the same folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def hashes_below(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path, for folders that are too large to hold twice."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
