"""The folder of a stage on disk: made beside its place and renamed into it, so that nothing is lost half way.

`<folder>.new` holds what is being made, be it new or the successor of a finished store (`--overwrite`); `<folder>.old`
exists for the moment of the exchange. A kill at any point leaves the old store whole or the new one in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.files import remove_partials, write_json
from pipelines.manifests import read_plan
from pipelines.own_files import OwnFiles
from schemas.errors import ConfigError, DataError, disk_errors
from schemas.workfolder import MANIFEST, PLAN, UNITS, PlanFile

logger = logging.getLogger(__name__)


class StageFolder:
    """Where a stage writes.

    Args:
        folder: its place.
        patterns: of its own files, see `OwnFiles`.
        units: names of its units as planned now.
    """

    def __init__(self, folder: Path, patterns: Sequence[str], units: Iterable[str]) -> None:
        self.folder = folder.absolute()
        self._patterns = patterns
        self._units = frozenset(units)

    @property
    def new(self) -> Path:
        """Beside the folder: what is being made."""
        return self.folder.with_name(self.folder.name + ".new")

    @property
    def old(self) -> Path:
        """Beside the folder: what is being replaced."""
        return self.folder.with_name(self.folder.name + ".old")

    def recover(self) -> None:
        """Ends an exchange that a kill cut off between its two renames."""
        if self.old.is_dir() and not self.folder.exists():
            (self.new if (self.new / MANIFEST).is_file() else self.old).rename(self.folder)
        self._discard(self.old)

    def start(self, plan: PlanFile, create: Callable[[Path], None]) -> None:
        """Makes the folder with its plan and empty arrays; whole or not at all.

        Raises:
            ConfigError: something foreign is in the way.
            DataError: the disk is full or the folder cannot be written.
        """
        self.prepare_new(plan, create)
        with disk_errors(self.folder):
            self.new.rename(self.folder)

    def prepare_new(self, plan: PlanFile, create: Callable[[Path], None]) -> None:
        """Makes `<folder>.new` with its plan and empty arrays; keeps what a killed run of the same plan left there.

        Raises:
            ConfigError: something foreign is in `<folder>.new`.
            DataError: the disk is full or the folder cannot be written.
        """
        if self.new.exists():
            if _has_plan(self.new, plan):
                remove_partials(self.new)
                return
            self._own(self.new).refuse_foreign(self.new)
            self._discard(self.new)
        try:
            create(self.new)
            write_json(self.new / PLAN, plan.model_dump(mode="json"))
        except BaseException:
            self._discard(self.new)
            raise

    def exchange(self) -> None:
        """Puts `<folder>.new` into its place and removes what was there, except what is foreign."""
        with disk_errors(self.folder):
            self.folder.rename(self.old)
            self.new.rename(self.folder)
        self._discard(self.old)

    def has_plan(self, plan: PlanFile) -> bool:
        """Whether the folder was planned like that."""
        return _has_plan(self.folder, plan)

    def refuse_any(self) -> None:
        """Refuses a folder without plan and manifest that holds anything at all.

        Raises:
            ConfigError: names what is in it.
            DataError: the folder is a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file, expected a folder. Move it or choose another one.")
        names = sorted(entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else []
        if names:
            raise ConfigError(
                f"{self.folder} exists and was not made by this stage (no {PLAN}; it holds {names[0]}). Nothing was "
                "deleted; move what is in it elsewhere or choose another folder."
            )

    def refuse_foreign(self) -> None:
        """Refuses a folder that holds anything that the stage did not make.

        Raises:
            ConfigError: names the foreign files.
        """
        self._own(self.folder).refuse_foreign(self.folder)

    def _own(self, folder: Path) -> OwnFiles:
        units = {path.stem for path in (folder / UNITS).glob("*.json")} | self._units
        with suppress(DataError):
            units |= set(read_plan(folder).units)
        return OwnFiles(self._patterns, units)

    def _discard(self, folder: Path) -> None:
        kept = self._own(folder).remove(folder) if folder.is_dir() else []
        if kept:
            logger.warning("kept in %s, because no stage made it: %s", folder, ", ".join(sorted(kept)[:3]))


def _has_plan(folder: Path, plan: PlanFile) -> bool:
    try:
        return same_plan(read_plan(folder), plan)
    except DataError:
        return False


COMPARED = ("stage", "format_version", "config", "dataset", "inputs")
"""Fields of two plans that must agree for their units to belong together."""


def same_plan(old: PlanFile, new: PlanFile) -> bool:
    """Whether units of both plans have the same bytes."""
    return old.model_dump(include=set(COMPARED)) == new.model_dump(include=set(COMPARED))
