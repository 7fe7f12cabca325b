"""Reading a whole set of shards, here or elsewhere, and comparing every byte with what manifest and indexes say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from protoocc.shards.join import image_faults
from protoocc.shards.joined import read_root
from protoocc.shards.members import cut_members
from protoocc.shards.places import Place
from protoocc.shards.pull import choose_shards, read_remote_index, read_remote_manifest
from protoocc.shards.sums import sum_faults
from schemas.errors import DataError, ProtoOccError
from schemas.outside import Source
from schemas.shard_checks import PACK_AGAIN
from schemas.shards import Manifest, SampleEntry, ShardEntry, ShardIndex
from schemas.workfolder import MANIFEST

_REMEDY: Final = "Fetch it again, or ask whoever published the shards."
Update = Callable[[int, int], None]
"""Takes read and total bytes."""


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        name: of the set.
        shards: those that were read.
        faults: what is wrong, a sentence each that names the file; empty where all is right.
    """

    name: str
    shards: tuple[ShardEntry, ...]
    faults: tuple[str, ...]


def verify(
    place: Place,
    *,
    splits: tuple[str, ...] = (),
    numbers: range | None = None,
    update: Update = lambda done, total: None,
) -> Verified:
    """Reads shards from end to end: checksums of tars, indexes and samples, and that a tar holds what its index says.

    Card, description and indexes for DALI are held against `SHA256SUMS`, and that against the manifest.

    Where a set without images was joined with raw data, all its camera files are read as well.

    Args:
        place: where they lie.
        splits: which ones; none for all.
        numbers: of the shards of each split; None for all.
        update: told how many bytes were read.

    Raises:
        ConfigError: no such shards.
        DataError: there is no manifest, or it is damaged or unsafe.
        StageError: the line broke too often.
    """
    manifest, _ = read_remote_manifest(place)
    shards = choose_shards(manifest, splits, numbers)
    total, done, faults = sum(shard.filesize for shard in shards), 0, []
    for shard in shards:
        try:
            for count in _read_shard(place, shard, manifest):
                update(done + count, total)
        except ProtoOccError as error:
            faults.append(str(error))
        done += shard.filesize
        update(done, total)
    faults += sum_faults(place, manifest, shards)
    root = None if place.folder is None else read_root(place.folder)
    if place.folder is not None and root is not None and not faults:
        faults += image_faults(place.folder, root)
    return Verified(manifest.name, tuple(shards), tuple(faults))


def _read_shard(place: Place, shard: ShardEntry, manifest: Manifest) -> Iterator[int]:
    """Yields how many bytes of the tar were read.

    Raises:
        DataError: something is not as it should be.
    """
    index, _ = read_remote_index(place, shard, manifest)
    tar = place.source(shard.url, _REMEDY)
    size = place.size(shard.url)
    if size is None or size != shard.filesize:
        found = "not found" if size is None else f"has {size:,} bytes"
        raise tar.error(f"{found}, {MANIFEST} says {shard.filesize:,} bytes")
    whole, position = hashlib.sha256(), 0
    layout = _Layout(tar, index)
    for block in place.blocks(shard.url, 0, shard.filesize):
        whole.update(block)
        layout.feed(block)
        position += len(block)
        yield position
    if whole.hexdigest() != shard.sha256:
        layout.explain()
        raise tar.error(f"has sha256 {whole.hexdigest()}, {MANIFEST} says {shard.sha256}: changed")
    layout.finish()


class _Layout:
    """The bytes of a tar as they come, held against its index: plain files of samples, nothing in between."""

    def __init__(self, source: Source, index: ShardIndex) -> None:
        self.source = source
        self.samples: list[SampleEntry] = sorted(index.samples, key=lambda sample: sample.span)
        self.faults: list[str] = []
        self.headers: list[str] = []
        """Faults of files that have the checksum of the index."""
        self._position, self._number, self._held = 0, 0, bytearray()

    def feed(self, block: bytes) -> None:
        """Takes the next bytes."""
        while block:
            if self._number == len(self.samples):
                if any(block):
                    self.faults.append("holds bytes behind its last sample that its index does not list")
                return
            sample = self.samples[self._number]
            start, stop = sample.span
            if self._position < start:
                self.faults.append(f"holds bytes before sample {sample.key} that its index does not list")
                skipped = min(len(block), start - self._position)
                self._position, block = self._position + skipped, block[skipped:]
                continue
            part = block[: stop - self._position]
            self._held += part
            self._position, block = self._position + len(part), block[len(part) :]
            if self._position == stop:
                self._end(sample)

    def explain(self) -> None:
        """Raises the first fault that names a sample, where there is one."""
        if self.faults:
            raise self.source.error(self.faults[0])

    def finish(self) -> None:
        """Raises whatever is not as the index says, though the tar is the one of the manifest."""
        for fault in (self.faults + self.headers)[:1]:
            raise self.source.error(fault)
        if self._number < len(self.samples):
            raise self.source.error(f"ends before sample {self.samples[self._number].key}")

    def _end(self, sample: SampleEntry) -> None:
        data, self._held = bytes(self._held), bytearray()
        if sample.sha256 not in (None, found := hashlib.sha256(data).hexdigest()):
            self.faults.append(f"sample {sample.key} has sha256 {found}, its index says {sample.sha256}: changed")
        else:
            self._check_headers(sample, data)
        self._number += 1

    def _check_headers(self, sample: SampleEntry, data: bytes) -> None:
        try:
            cut_members(f"sample {sample.key}", sample, data, sample.members)
        except DataError as error:
            self.headers.append(str(error).removesuffix(f". {PACK_AGAIN}"))
