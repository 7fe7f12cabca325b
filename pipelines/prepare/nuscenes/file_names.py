"""File names of tables as converters write them: with backslashes, or absolute; records hold none of both."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from schemas.outside import shorten

_TOPS: Final = ("samples", "sweeps", "maps", "lidarseg", "panoptic")
"""Folders below the root in the published layout: an absolute name of another machine counts from the first of them."""


def relative_name(root: Path, name: object) -> str:
    """A file name of a table as one below the root.

    Args:
        root: of the dataset.
        name: value of the row; backslashes are separators, as converters on Windows write them.

    Raises:
        ValueError: no text, empty, outside the root, or absolute without a folder of the published layout.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{shorten(name)} is no file name")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive:
        path = _below(root, path, name)
    if ".." in path.parts or not path.parts:
        raise ValueError(f"{shorten(name)} leaves the dataset's root; file names are relative to it")
    return path.as_posix()


def _below(root: Path, path: PurePosixPath, name: str) -> PurePosixPath:
    if path.is_relative_to(root.as_posix()):
        return path.relative_to(root.as_posix())
    tops = [index for index, part in enumerate(path.parts) if part in _TOPS]
    if not tops:
        raise ValueError(
            f"{shorten(name)} is absolute and not below {root}; file names are relative to the dataset's root"
        )
    return PurePosixPath(*path.parts[tops[0] :])
