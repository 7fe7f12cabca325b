"""Changes to a copy of a generated world: its files are links until a test replaces them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
TABLES = "v1.0-synth"


def link_tree(source: Path, target: Path) -> Path:
    """A copy of a dataset whose files are links: damage one by replacing it."""
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    return target


def replace_file(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def edit_table(path: Path, edit: Callable[[Rows], object]) -> None:
    rows = json.loads(path.read_text())
    edit(rows)
    replace_file(path, json.dumps(rows).encode())
