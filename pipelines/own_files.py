"""Which files of a stage's folder are its own: only those are ever deleted, others are named and kept."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipelines.files import PARTIAL
from schemas.errors import ConfigError, disk_errors
from schemas.lock import LOCK_SUFFIX
from schemas.workfolder import CHECKSUMS, MANIFEST, PLAN, UNITS

UNIT: Final = "{unit}"
"""Stands for the name of a unit in the pattern of a stage's files."""
_ALWAYS: Final = (PLAN, MANIFEST, CHECKSUMS, LOCK_SUFFIX, f"{UNITS}/{UNIT}.json")


class OwnFiles:
    """The files that a stage may have left in a folder.

    Args:
        patterns: relative paths; `*` stands for anything, slashes included, `{unit}` for the name of a unit.
        units: names of all units, those of an earlier plan included.
    """

    def __init__(self, patterns: Sequence[str], units: Collection[str]) -> None:
        self._units = frozenset(units)
        self._patterns = [_compile(pattern) for pattern in (*_ALWAYS, *patterns)]
        self._tops = {pattern.split("/")[0] for pattern in (*_ALWAYS, *patterns) if "/" in pattern}

    def foreign(self, folder: Path) -> Iterator[str]:
        """Relative paths below a folder that are not the stage's: files, and empty folders of an unknown name."""
        for relative, is_folder in _below(folder):
            if not (relative.split("/")[0] in self._tops if is_folder else self._has(relative)):
                yield relative

    def remove(self, folder: Path) -> list[str]:
        """Removes the stage's files and the folders that are empty then; returns what is foreign and stays.

        Raises:
            DataError: the folder cannot be written.
        """
        kept = []
        with disk_errors(folder):
            for relative, is_folder in list(_below(folder)):
                if not is_folder and self._has(relative):
                    (folder / relative).unlink(missing_ok=True)
                elif not is_folder:
                    kept.append(relative)
            for parent, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):  # holds what is kept
                    Path(parent).rmdir()
        return kept

    def refuse_foreign(self, folder: Path) -> None:
        """Refuses a folder that holds anything else.

        Raises:
            ConfigError: names the first of the foreign files.
        """
        found = sorted(self.foreign(folder))
        if found:
            names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            raise ConfigError(
                f"{folder} was not made by this stage alone: it also holds {names}. Nothing was deleted; move "
                "them elsewhere or choose another folder."
            )

    def _has(self, relative: str) -> bool:
        relative = relative.removesuffix(PARTIAL)
        for pattern in self._patterns:
            match = pattern.fullmatch(relative)
            if match and all(name in self._units for name in match.groups()):
                return True
        return False


def _compile(pattern: str) -> re.Pattern[str]:
    parts = (".*".join(map(re.escape, part.split("*"))) for part in pattern.split(UNIT))
    return re.compile("(.+)".join(parts), re.DOTALL)


def _below(folder: Path) -> Iterator[tuple[str, bool]]:
    """Relative path of every file, links included, and of every empty folder, which is marked as such."""
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        with os.scandir(folder / relative) as entries:
            is_empty = True
            for entry in entries:
                is_empty = False
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name, False
            if is_empty and relative:
                yield relative, True
