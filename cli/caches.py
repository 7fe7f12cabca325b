"""Where compiled loops are kept: a folder that can be written, also with a read-only home and installation."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NUMBA: Final = "NUMBA_CACHE_DIR"
_COMPILED: Final = (
    "pipelines/occupancy",
    "pipelines/synth",
    "protoocc/view",
    "protoocc/model/deformable",
    "schemas/voxels",
)


def ready_caches() -> None:
    """Gives numba a temporary folder for this run where it would find none; worker processes inherit it.

    Without one, numba refuses to load any function that asks to be kept.
    """
    if not _has_place():
        folder = tempfile.mkdtemp(prefix="protoocc-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[NUMBA] = folder


def _has_place() -> bool:
    chosen = os.environ.get(NUMBA)
    if chosen:
        return _takes_files(Path(chosen))
    beside = [Path(__file__).parents[1] / name / "__pycache__" for name in _COMPILED]
    return all(map(_takes_files, beside)) or any(map(_takes_files, _of_user()))


def _of_user() -> Iterator[Path]:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111, Path refuses no home
    if not home.startswith("~"):
        yield Path(home) / "numba"


def _takes_files(folder: Path) -> bool:
    """Tried, not asked: a full or read-only disk answers only so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
