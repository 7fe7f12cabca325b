"""Where stored bytes come from, from the entry of `datasets.yaml` and raw files on, and whether that still holds.

A stage that reads stores first asks `check_origin`. Each store must be finished, the fields of the dataset's entry that
decided its bytes must be today's, the stores that it read must still hold what it read, and its raw files must be the
same. What does not hold is named with was and now and the command that makes it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from pipelines.files import sha256_of
from pipelines.manifests import command_of, content_of, read_manifest, read_marker, read_plan
from pipelines.raw_files import changed_files
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.settings import flatten
from schemas.workfolder import MANIFEST, PLAN, UNITS, StageManifest


@dataclass(frozen=True)
class Origin:
    """What a stage's bytes come from, beside its configuration."""

    dataset: DatasetSpec
    """Entry of `datasets.yaml`."""
    fields: tuple[str, ...] = ()
    """Dotted names of the fields of the entry that decide the bytes."""
    stores: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the finished stages that it reads, by a name for messages."""
    read: tuple[Path, ...] = ()
    """Raw files that the whole stage reads; those of single units are in the units' reports."""
    command: str = ""
    """Command line that makes the stage, without --overwrite; `{folder}` stands for its folder."""


@dataclass(frozen=True)
class Stale:
    """One reason why a store does not fit what is there now."""

    folder: Path
    reason: str
    command: str


def dataset_part(dataset: DatasetSpec, fields: tuple[str, ...]) -> dict[str, Any]:
    """Some fields of an entry as JSON holds them, by their dotted names, such as `classes.names`."""
    values = json.loads(dataset.model_dump_json(include={name.split(".")[0] for name in fields}))
    return {name: reduce(_inner, name.split("."), values) for name in fields}


def _inner(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, dict) else None


def relative_stores(folder: Path, stores: Mapping[str, Path]) -> dict[str, str]:
    """Folders of stores as a plan in ``folder`` has them, so that a work folder may move."""
    return {name: Path(os.path.relpath(store, folder)).as_posix() for name, store in stores.items()}


def check_origin(origin: Origin, *, deep: bool = False) -> None:
    """Checks every store of a stage and all that they were made from.

    Args:
        origin: of the stage.
        deep: compare the contents of raw files, not only size and time.

    Raises:
        DataError: a store is not finished or damaged.
        ConfigError: something does not belong together; names the stores, what was, what is, and the repair.
    """
    visited = set[Path]()
    _refuse_stale(
        stale
        for store in origin.stores.values()
        for stale in find_stale(store, origin.dataset, deep=deep, visited=visited)
    )


def check_packed(shards: Path, dataset: DatasetSpec | None) -> None:
    """Checks shards before they are learned from or scored: as `check_origin`, as far as their sources are there.

    Args:
        shards: folder of the stage `pack`; where it is none, whoever reads it says so.
        dataset: its entry; None for shards that were named without one: only stores are compared then.

    Raises:
        DataError: a store that they were made from is damaged.
        ConfigError: something does not belong together.
    """
    try:
        read_manifest(shards)
    except DataError:
        return
    _refuse_stale(find_stale(shards, dataset, seen_only=True))


def _refuse_stale(found: Iterable[Stale]) -> None:
    unique = list(dict.fromkeys(found))
    if not unique:
        return
    folders = [str(stale.folder) for stale in unique]
    lines = [f"  {stale.folder}: {stale.reason}" for stale in unique[:6]]
    lines += [f"  and {len(unique) - 6} more"] if len(unique) > 6 else []
    commands = dict.fromkeys(stale.command for stale in unique)
    where = ", ".join(dict.fromkeys(folders))
    raise ConfigError(
        f"{where}: made from something else than what is there now:\n"
        + "\n".join(lines)
        + "\nRun again, in this order:\n"
        + "\n".join(f"  {command}" for command in commands)
    )


def find_stale(
    folder: Path,
    dataset: DatasetSpec | None,
    *,
    deep: bool = False,
    files: bool = True,
    seen_only: bool = False,
    visited: set[Path] | None = None,
) -> Iterator[Stale]:
    """Why a finished store, or one that it was made from, does not fit what is there now; sources first.

    Args:
        folder: of the store.
        dataset: its entry in `datasets.yaml` as it is now; None: neither the entry nor raw files are compared.
        deep: compare the contents of raw files.
        files: look at raw files and at those that belong to no unit; without, only plans and manifests are read.
        seen_only: stores that are not there are no fault: shards may travel alone.
        visited: absolute paths of the stores that were looked at already, to which these are added: each is looked at
            once, whichever ways lead to it.

    Raises:
        DataError: a store is not finished or damaged.
    """
    visited = set() if visited is None else visited
    if folder.absolute() in visited:
        return
    visited.add(folder.absolute())
    manifest = read_manifest(folder)
    command = f"{command_of(folder, manifest) or 'the stage that makes it,'} --overwrite"
    own = list(_changed_fields(_planned_fields(folder, manifest), dataset)) if dataset else []
    for name, relative in manifest.stores.items():
        source = Path(os.path.normpath(folder / relative))
        if seen_only and not (source / MANIFEST).is_file():
            continue
        yield from find_stale(source, dataset, deep=deep, files=files, seen_only=seen_only, visited=visited)
        if content_of(read_manifest(source)) != manifest.inputs.get(name):
            own.append(f"its input {source.name} has changed since")
    if files:
        own += _damaged(folder, manifest)
        own += changed_raw(folder, dataset.root, deep=deep) if dataset else []
    yield from (Stale(folder, reason, command) for reason in own)


def changed_raw(folder: Path, root: Path | None, *, deep: bool) -> list[str]:
    """Raw files of a stage's folder that have changed since they were read, the first few of each unit.

    Raises:
        DataError: a raw file cannot be read, or the plan is damaged.
    """
    reasons = list(changed_files(root, read_plan(folder).read, deep=deep)) if (folder / PLAN).is_file() else []
    for path in sorted((folder / UNITS).glob("*.json")):
        marker = read_marker(folder, path.stem)
        if marker is not None:
            reasons += changed_files(root, marker.read, deep=deep)
        if len(reasons) > 100:
            break
    return reasons


def _damaged(folder: Path, manifest: StageManifest) -> Iterator[str]:
    """Files that belong to no unit and are not what the manifest says."""
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            yield f"{name} is gone"
        elif sha256_of([folder / name]) != digest:
            yield f"{name} is damaged: its contents are not those that were written"


def _planned_fields(folder: Path, manifest: StageManifest) -> dict[str, Any]:
    """Fields of the entry that a store was made for; the manifest of shards says something else under that name."""
    if (folder / PLAN).is_file():
        return dict(read_plan(folder).dataset)
    return {name: value for name, value in manifest.dataset.items() if name.split(".")[0] in DatasetSpec.model_fields}


def _changed_fields(fields: Mapping[str, Any], dataset: DatasetSpec) -> Iterator[str]:
    now = flatten(dataset_part(dataset, tuple(fields)))
    was = flatten(fields)
    yield from (f"{name}: {change}" for name, change in changes(was, now))


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted name and "was ..., now ..." of each value that differs."""
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            yield name, f"was {was.get(name)!r}, now {now.get(name)!r}"
