"""Units: the shares of a stage's work, what a task reports of one, and which files it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from schemas.records import RecordEntry


@dataclass(frozen=True)
class Unit:
    """A share of the work that one task does and marks as done; it carries all that its task needs of the plan."""

    name: str
    size: int
    """Number of samples."""
    entries: tuple[RecordEntry, ...] = ()
    """The records to read; empty for stages that come before records."""


@dataclass(frozen=True)
class UnitReport:
    """What a task returns: never arrays, only what the summary and the manifest need."""

    done: int
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Token of each dropped sample and why."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Figures that are added up over all units, such as labelled voxels by source."""
    read: tuple[Path, ...] = ()
    """Raw files that the bytes depend on, also those that were missing."""


class Piece(NamedTuple):
    """The files of one sample, or of a unit as a whole."""

    name: str
    """Token of the sample, or name of the unit."""
    paths: tuple[str, ...]
    """Relative to the stage's folder; a chunk that is all fill value has no file."""


def _no_pieces(unit: Unit) -> Sequence[Piece]:
    return ()


@dataclass(frozen=True)
class Layout:
    """Which files a stage writes below its folder."""

    patterns: tuple[str, ...] = ()
    """All of them, see `pipelines.own_files`."""
    pieces: Callable[[Unit], Sequence[Piece]] = _no_pieces
    """Top-level function or partial of one: the files that stay of a unit."""
    created: tuple[str, ...] = ()
    """Files that are made before the first unit, such as those that describe arrays."""
    joined: tuple[str, ...] = ()
    """Glob patterns of the files that are made after the last unit. The manifest holds the hashes of both kinds."""
    has_rows: bool = False
    """Whether the pieces of all units, in order, are the rows of a store, whose checksums readers need."""

    @property
    def keeps_units(self) -> bool:
        """Whether the files of single units stay, so that a unit can be made again by itself."""
        return self.pieces is not _no_pieces


def units_of(entries: Sequence[RecordEntry], size: int) -> list[Unit]:
    """Units of ``size`` records each, in order; the last one may be smaller."""
    parts = [tuple(entries[start : start + size]) for start in range(0, len(entries), size)]
    return [Unit(f"part-{number:05d}", len(part), part) for number, part in enumerate(parts)]


def scene_units(entries: Sequence[RecordEntry]) -> list[Unit]:
    """One unit per scene; entries of a scene stand next to each other."""
    scenes = [(scene, tuple(members)) for scene, members in groupby(entries, key=lambda entry: entry.scene)]
    return [Unit(scene, len(members), members) for scene, members in scenes]
