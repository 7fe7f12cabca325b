"""Sets of shards for measurements: the samples of a packed set as often as wanted, or only the index of so many."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protoocc.shards import ShardSet
from protoocc.shards.members import MemberReader
from schemas.names import file_key
from schemas.shards import META_MEMBER, SHARD_FORMAT, TAR_BLOCK, WIDS_KIND, Manifest, SampleEntry, ShardEntry, padded
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST

_END: Final = bytes(2 * TAR_BLOCK)
FRAMES: Final = 40
"""Keyframes of a scene of nuScenes."""


@dataclass(frozen=True)
class Made:
    """A set that was made.

    Attributes:
        folder: where it lies.
        split: its only one.
        tars: their paths.
        samples: how many.
        size: bytes of the tars.
    """

    folder: Path
    split: str
    tars: tuple[Path, ...]
    samples: int
    size: int


def write_set(source: ShardSet, folder: Path, *, samples: int, per_shard: int) -> Made:
    """A set in the present format of the samples of a split, over and over where it has fewer.

    Args:
        source: the split.
        folder: for the set; it is made.
        samples: how many.
        per_shard: samples of a tar.
    """
    folder.mkdir(parents=True)
    shards = []
    read = _copies(source, samples)
    for first in range(0, samples, per_shard):
        count = min(per_shard, samples - first)
        shards.append(_write_shard(folder, source.split, first // per_shard, [next(read) for _ in range(count)]))
    _write_manifest(folder, source.manifest, shards)
    tars = tuple(folder / shard.url for shard in shards)
    return Made(folder, source.split, tars, samples, sum(shard.filesize for shard in shards))


def write_index(source: ShardSet, folder: Path, *, samples: int, per_shard: int) -> Made:
    """Manifest and indexes of so many samples; the tars have their size and no bytes.

    Args:
        source: gives cameras, classes and the sizes of members.
        folder: for the set; it is made.
        samples: how many.
        per_shard: samples of a tar.
    """
    folder.mkdir(parents=True)
    shards = []
    for first in range(0, samples, per_shard):
        entries, place = [], 0
        for number in range(first, min(first + per_shard, samples)):
            like = source.samples[number % len(source.samples)][1]
            members, place = _places({name: size for name, (_, size) in like.members.items()}, place)
            scene, digest = f"scene-{number // FRAMES:04d}", hashlib.sha256(b"%d" % number).hexdigest()
            key = f"{scene}-{number % FRAMES:04d}"
            known = {"key": key, "token": digest[:32], "scene": scene, "frame": number % FRAMES}
            entries.append(SampleEntry(**known, members=members, sha256=digest))
        name = f"{source.split}-{first // per_shard:05d}"
        with (folder / f"{name}.tar").open("wb") as file:
            file.truncate(place + len(_END))
        digest = hashlib.sha256(name.encode()).hexdigest()
        shards.append(_write_index(folder, name, source.split, entries, (place + len(_END), digest, digest[:32])))
    _write_manifest(folder, source.manifest, shards)
    tars = tuple(folder / shard.url for shard in shards)
    return Made(folder, source.split, tars, samples, sum(shard.filesize for shard in shards))


Copied = tuple[dict[str, str | int], dict[str, bytes]]
"""Key, token, scene and frame of a sample, and its members."""


def _copies(source: ShardSet, samples: int) -> Iterator[Copied]:
    """Members of a split's samples; those of a second round and later have scenes and tokens of their own."""
    reader, names = MemberReader(source), source.manifest.extensions
    for number in range(samples):
        turn, index = divmod(number, len(source.samples))
        entry = source.samples[index][1]
        members = reader.read(index, names)
        known: dict[str, str | int] = {"token": entry.token, "scene": entry.scene, "frame": entry.frame}
        if turn:
            known |= {"token": f"{entry.token}-{turn}", "scene": f"{entry.scene}-{turn}"}
            meta = json.loads(members[META_MEMBER]) | {"token": known["token"], "scene": known["scene"]}
            members[META_MEMBER] = json.dumps(meta).encode()
        yield known | {"key": f"{file_key(str(known['scene']))}-{entry.frame:04d}"}, members
    reader.close()


def _write_shard(folder: Path, split: str, number: int, samples: list[Copied]) -> ShardEntry:
    name, data, entries = f"{split}-{number:05d}", bytearray(), []
    for known, content in samples:
        start = len(data)
        members, _ = _places({member: len(part) for member, part in content.items()}, start)
        for member, part in content.items():
            header = tarfile.TarInfo(f"{known['key']}.{member}")
            header.size = len(part)
            data += header.tobuf(tarfile.USTAR_FORMAT) + part + bytes(padded(len(part)) - len(part))
        digest = hashlib.sha256(data[start:]).hexdigest()
        entries.append(SampleEntry(**known, members=members, sha256=digest))
    data += _END
    (folder / f"{name}.tar").write_bytes(data)
    sums = len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()
    return _write_index(folder, name, split, entries, sums)


def _places(sizes: Mapping[str, int], place: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Where members stand that follow each other from a place on, and the place behind them."""
    members = {}
    for name, size in sizes.items():
        members[name] = (place + TAR_BLOCK, size)
        place += TAR_BLOCK + padded(size)
    return members, place


def _write_index(
    folder: Path, name: str, split: str, entries: list[SampleEntry], sums: tuple[int, str, str]
) -> ShardEntry:
    """Writes the index of a tar.

    Args:
        folder: of the set.
        name: of the shard.
        split: of its samples.
        entries: in the order of the tar.
        sums: size, SHA-256 and MD5 of the tar.
    """
    of_tar = {"filesize": sums[0], "sha256": sums[1], "md5sum": sums[2], "split": split}
    samples = [entry.model_dump(mode="json") for entry in entries]
    data = json.dumps({**of_tar, "shard": f"{name}.tar", "samples": samples}, sort_keys=True).encode()
    (folder / f"{name}.index.json").write_bytes(data)
    return ShardEntry(
        url=f"{name}.tar",
        index=f"{name}.index.json",
        index_sha256=hashlib.sha256(data).hexdigest(),
        nsamples=len(entries),
        scenes=tuple(dict.fromkeys(entry.scene for entry in entries)),
        **of_tar,
    )


def _write_manifest(folder: Path, like: Manifest, shards: list[ShardEntry]) -> None:
    fields = {"shard_format": SHARD_FORMAT, "shardlist": tuple(shards), "formerly": None, "left_out": {}}
    raw = like.model_copy(update=fields).model_dump(mode="json")
    raw |= {"__kind__": WIDS_KIND, "wids_version": 1, "format_version": FORMAT_VERSION}
    (folder / MANIFEST).write_text(json.dumps(raw))
