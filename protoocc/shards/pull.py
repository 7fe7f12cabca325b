"""Fetching a set of shards: resumable, checked by SHA-256, the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

from protoocc.shards.places import Place
from schemas.errors import ConfigError, DataError, StageError, disk_errors
from schemas.files import write_bytes
from schemas.lock import folder_lock
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.shard_checks import fingerprint, parse_index, parse_manifest
from schemas.shards import CARD, CHECKSUMS, CROISSANT, Manifest, ShardEntry, ShardIndex
from schemas.workfolder import MANIFEST

PART: Final = ".part"
"""Ending of a file that is being fetched; a later run goes on with it."""
PULLED_FROM: Final = "pulled_from"
"""Key of the manifest of a part of a set: the fingerprint of the whole."""
Update = Callable[[int, int], None]
"""Takes fetched and total bytes."""


@dataclass(frozen=True)
class Transfer:
    """What a transfer came to.

    Attributes:
        shards: number of them that are there now, of those that were asked for.
        samples: in these.
        moved: bytes that crossed the line.
        kept: bytes of shards that were there already.
    """

    shards: int
    samples: int
    moved: int
    kept: int


def read_remote_manifest(place: Place) -> tuple[Manifest, bytes]:
    """The checked manifest of a set of shards elsewhere, and its file.

    Raises:
        DataError: there is none, or it is damaged, unsafe or of another format.
        StageError: it could not be read.
    """
    source = place.source(MANIFEST, "Ask whoever published the shards.")
    data = place.read(MANIFEST, JSON_BYTES)
    if data is None:
        raise DataError(f"{place.address} holds no shards (no {MANIFEST})")
    return parse_manifest(source, data), data


def read_remote_index(place: Place, shard: ShardEntry, manifest: Manifest) -> tuple[ShardIndex, bytes]:
    """The index of a shard, and its file.

    Raises:
        DataError: there is none, or it is damaged, changed or unsafe.
        StageError: the line broke too often.
    """
    source = place.source(shard.index, "Fetch it again, or ask whoever published the shards.")
    data = place.read(shard.index, JSON_BYTES)
    if data is None:
        raise source.error(f"not found, {MANIFEST} lists it")
    return parse_index(source, data, shard, manifest), data


def choose_shards(manifest: Manifest, splits: Sequence[str], numbers: range | None) -> list[ShardEntry]:
    """The shards of some splits, and of each those with these numbers; all where nothing is said.

    Raises:
        ConfigError: there is no such split, or no shard is left.
    """
    known = manifest.by_split
    for split in splits:
        if split not in known:
            raise ConfigError(f"no split '{split}' in {manifest.name}; known: {', '.join(known)}")
    chosen = []
    for split in splits or known:
        chosen += known[split] if numbers is None else known[split][numbers.start : numbers.stop]
    if not chosen:
        raise ConfigError(f"no shards {numbers} in {manifest.name}: it has {len(manifest.shardlist)} of all splits")
    return chosen


def pull(
    place: Place,
    folder: Path,
    *,
    splits: Sequence[str] = (),
    numbers: range | None = None,
    workers: int = 4,
    update: Update = lambda done, total: None,
) -> Transfer:
    """Fetches shards into a folder, several at once; what is there and right is not fetched again.

    Args:
        place: where they lie.
        folder: where they should lie. It may hold other shards of the same set; the manifest then lists all.
        splits: which ones; none for all.
        numbers: of the shards of each split; None for all.
        workers: files at a time.
        update: told how many bytes are there.

    Raises:
        ConfigError: no such shards, or the folder holds others or is being written.
        DataError: the set is damaged, unsafe, or not what its manifest says.
        StageError: the line broke too often; what was fetched stays.
    """
    manifest, data = read_remote_manifest(place)
    whole = fingerprint(manifest, data)
    wanted = choose_shards(manifest, splits, numbers)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        have = _shards_there(folder, whole)
        fetch = _Fetch(place, folder, manifest, sum(shard.filesize for shard in wanted), update)
        fetch.all_of(wanted, workers)
        names = {shard.url for shard in wanted} | have
        _finish(place, folder, manifest, data, names, whole)
    return Transfer(len(wanted), sum(shard.nsamples for shard in wanted), fetch.moved, fetch.kept)


class _Fetch:
    """One pull: the files of single shards, and what was counted."""

    def __init__(self, place: Place, folder: Path, manifest: Manifest, total: int, update: Update) -> None:
        self.place, self.folder, self.manifest = place, folder, manifest
        self.total, self.update = total, update
        self.moved = self.kept = 0
        self._counting, self._stopped = Lock(), Event()

    def all_of(self, shards: Iterable[ShardEntry], workers: int) -> None:
        """Fetches shards, several at once; the first error stops the others."""
        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = [pool.submit(self._shard, shard) for shard in shards]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _shard(self, shard: ShardEntry) -> None:
        _, index = read_remote_index(self.place, shard, self.manifest)
        self._tar(shard)
        write_bytes(self.folder / shard.index, index)
        dali = shard.dali_index
        if self.manifest.shard_format > 1 and (text := self.place.read(dali, JSON_BYTES)) is not None:
            write_bytes(self.folder / dali, text)

    def _tar(self, shard: ShardEntry) -> None:
        path, part = self.folder / shard.url, self.folder / f"{shard.url}{PART}"
        if path.is_file() and path.stat().st_size == shard.filesize and _hash(path).hexdigest() == shard.sha256:
            self._count(shard.filesize, moved=False)
            return
        for _ in range(2):  # a part that another server or an older set left gives the wrong hash: then anew
            begun = part.stat().st_size if part.is_file() else 0
            if self._rest(shard, part) == shard.sha256:
                with disk_errors(path):
                    part.replace(path)
                return
            with disk_errors(part):
                part.unlink()
            self._count(-shard.filesize, moved=False)
            if not begun:
                break
        raise self.place.source(shard.url).error(
            f"its bytes do not have the sha256 {shard.sha256} that {MANIFEST} says: changed on the way or there. Try "
            "again, or ask whoever published the shards"
        )

    def _rest(self, shard: ShardEntry, part: Path) -> str:
        """Fetches what a part lacks; returns the hash of the whole."""
        if part.is_symlink():  # nothing is written where a link leads
            part.unlink()
        with disk_errors(part), part.open("ab+") as file:
            if file.tell() > shard.filesize:
                file.truncate(0)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            begun = file.seek(0, os.SEEK_END)
            self._count(begun, moved=False)
            for block in self.place.blocks(shard.url, begun, shard.filesize):
                if self._stopped.is_set():
                    raise StageError("stopped")
                file.write(block)
                digest.update(block)
                self._count(len(block), moved=True)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _count(self, size: int, *, moved: bool) -> None:
        with self._counting:
            if moved:
                self.moved += size
            else:
                self.kept += size
            self.update(self.moved + self.kept, self.total)


def _hash(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _shards_there(folder: Path, whole: str) -> set[str]:
    """Names of the shards that an earlier pull of the same set finished.

    Raises:
        ConfigError: the folder holds another set.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return set()
    source = Source(str(path), "Choose another folder, or remove this one.")
    data = read_bytes(source, path, JSON_BYTES)
    manifest, raw = parse_manifest(source, data), parse_json(source, data)
    if whole not in (raw.get(PULLED_FROM), fingerprint(manifest, data)):
        raise ConfigError(
            f"{folder} holds other shards ('{manifest.name}'). Choose another folder, or remove this one."
        )
    return {shard.url for shard in manifest.shardlist}


def _finish(place: Place, folder: Path, manifest: Manifest, data: bytes, names: set[str], whole: str) -> None:
    """Writes what stands beside the shards, and the manifest last: of the whole set as it is, of a part with a note."""
    is_whole = names == {shard.url for shard in manifest.shardlist}
    for name in (CARD, CROISSANT) if is_whole else (CARD,):
        if (text := place.read(name, JSON_BYTES)) is not None:
            write_bytes(folder / name, text)
    sums = place.read(CHECKSUMS, JSON_BYTES)
    if sums is not None:
        lines = [line for line in sums.splitlines(keepends=True) if _is_there(folder, line)]
        write_bytes(folder / CHECKSUMS, b"".join(lines))
    if not is_whole:
        raw = parse_json(place.source(MANIFEST), data)
        raw["shardlist"] = [entry for entry in raw["shardlist"] if entry["url"] in names]
        raw[PULLED_FROM] = whole
        data = (json.dumps(raw, indent=1, sort_keys=True) + "\n").encode()
    write_bytes(folder / MANIFEST, data)


def _is_there(folder: Path, line: bytes) -> bool:
    name = line.decode(errors="replace").rpartition("  ")[2].rstrip("\n")
    with suppress(ValueError, OSError):
        return "/" not in name and (folder / name).is_file()
    return False
