"""The shards folder: manifest and offset index, checked before the first byte of a sample is read.

Format: `schemas.shards`. Here sizes, names and places must agree; `verify_shard` compares checksums as well.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import DataError
from schemas.outside import Source, parse_json, read_bytes, shorten
from schemas.outside.limits import JSON_BYTES, NAME_BYTES
from schemas.settings import describe_validation
from schemas.shards import (
    SHARD_FORMAT,
    TAR_BLOCK,
    WIDS_KIND,
    DatasetInfo,
    Manifest,
    SampleEntry,
    ShardEntry,
    ShardIndex,
)
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST

PACK_AGAIN = "Run `protoocc pack --overwrite` (or fetch the shards again)."
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class ShardSet:
    """The samples of one split of a checked shards folder, in order of shard, scene and time."""

    folder: Path
    split: str
    manifest: Manifest
    fingerprint: str
    """SHA-256 over what all splits hold, whatever it was made from and wherever it lies."""
    samples: tuple[tuple[Path, SampleEntry], ...]

    @property
    def dataset(self) -> DatasetInfo:
        """Shapes and names that all samples share."""
        return self.manifest.dataset


def read_shard_manifest(folder: Path) -> Manifest:
    """Reads and checks `manifest.json` of a shards folder.

    Raises:
        DataError: the folder is not finished, or the manifest is damaged, has another format version, lists a file
            twice or describes what no packed dataset has.
    """
    return _read_manifest(folder)[0]


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest and the fingerprint of all shards."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} holds no finished shards (no {MANIFEST}). Run `protoocc pack` first.")
    source = Source(str(path), PACK_AGAIN)
    data = read_bytes(source, path, JSON_BYTES)
    raw = parse_json(source, data)
    found = (raw.get("__kind__"), raw.get("format_version"))
    if found != (WIDS_KIND, FORMAT_VERSION):
        raise DataError(
            f"{path} has kind {shorten(found[0])}, format version {shorten(found[1])}; this program reads "
            f"'{WIDS_KIND}', {FORMAT_VERSION}. {PACK_AGAIN}"
        )
    manifest = _validate(Manifest, raw, path)
    if manifest.shard_format > SHARD_FORMAT:
        raise DataError(
            f"{path} has shard format {manifest.shard_format}, this program reads up to {SHARD_FORMAT}: a newer one "
            "packed the shards. Update protoocc."
        )
    for fault in manifest.dataset.faults():
        raise source.error(fault)
    _refuse_twice(source, "file", [name for shard in manifest.shardlist for name in (shard.url, shard.index)])
    for name in [*manifest.extensions, *(name for shard in manifest.shardlist for name in (shard.url, shard.index))]:
        _check_name(name, path)
    return manifest, _fingerprint(manifest, data)


def _fingerprint(manifest: Manifest, data: bytes) -> str:
    """Of format 1 the SHA-256 of the file, by which the checkpoints of its time know their shards."""
    if manifest.shard_format > 1:
        shards = [(shard.url, shard.split, shard.sha256) for shard in manifest.shardlist]
        shared = manifest.model_dump(mode="json", include={"dataset", "masks", "depth", "pixels"})
        data = json.dumps([shared, shards], sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def open_shards(folder: Path, split: str, *, pixels: bool = False) -> ShardSet:
    """Reads and checks manifest and indexes of one split.

    Args:
        folder: of the shards.
        split: one of theirs.
        pixels: whether they must be image targets, which hold classes and depth of pixels instead of occupancy.

    Raises:
        DataError: no manifest, another format version, shards of the other kind, an unknown split, a shard that is
            missing or has another size than the manifest says, an index of another shard, one whose places lie outside
            the shard or in each other, a sample twice, a missing member, an unsafe name.
    """
    manifest, fingerprint = _read_manifest(folder)
    source = Source(str(folder / MANIFEST), PACK_AGAIN)
    if (manifest.pixels is not None) != pixels:
        held = "image targets" if manifest.pixels is not None else "occupancy shards"
        wanted = "image targets of `protoocc pretrain targets`" if pixels else "occupancy shards of `protoocc pack`"
        raise DataError(f"{folder} holds {held}; expected {wanted}")
    shards = [shard for shard in manifest.shardlist if shard.split == split]
    if not shards:
        known = ", ".join(sorted({shard.split for shard in manifest.shardlist}))
        raise DataError(f"{folder / MANIFEST} has no split '{split}'; known: {known}")
    samples = [(folder / shard.url, sample) for shard in shards for sample in _shard_samples(folder, shard, manifest)]
    _refuse_twice(source, f"split '{split}': sample", [sample.token for _, sample in samples])
    _refuse_twice(source, f"split '{split}': keyframe", [(sample.scene, sample.frame) for _, sample in samples])
    return ShardSet(folder, split, manifest, fingerprint, tuple(samples))


def verify_shard(folder: Path, shard: ShardEntry) -> None:
    """Compares the bytes of a shard with the SHA-256 of the manifest: it finds every changed bit, and reads all of it.

    Raises:
        DataError: the shard cannot be read or was changed.
    """
    path = folder / shard.url
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {PACK_AGAIN}") from error
    if found != shard.sha256:
        raise DataError(f"{path} has sha256 {found}, {MANIFEST} says {shard.sha256}: changed. {PACK_AGAIN}")


def _shard_samples(folder: Path, shard: ShardEntry, manifest: Manifest) -> tuple[SampleEntry, ...]:
    tar, index_path = folder / shard.url, folder / shard.index
    for file in (tar, index_path):
        if not file.is_file():
            raise DataError(f"{file} is missing, {MANIFEST} lists it. {PACK_AGAIN}")
    size = tar.stat().st_size
    if size != shard.filesize:
        raise DataError(f"{tar} has {size} bytes, {MANIFEST} says {shard.filesize}: truncated or changed. {PACK_AGAIN}")
    source = Source(str(index_path), PACK_AGAIN)
    data = read_bytes(source, index_path, JSON_BYTES)
    if shard.index_sha256 not in (None, found := hashlib.sha256(data).hexdigest()):
        raise source.error(f"has sha256 {found}, {MANIFEST} says {shard.index_sha256}: changed")
    index = _validate(ShardIndex, parse_json(source, data), index_path)
    if len(index.samples) != shard.nsamples:
        raise source.error(f"lists {len(index.samples)} samples, {MANIFEST} says {shard.nsamples}")
    of_index, of_manifest = (index.shard, index.split, index.sha256), (shard.url, shard.split, shard.sha256)
    if of_index != of_manifest:
        raise source.error(f"is of shard, split and sha256 {of_index}, {MANIFEST} says {of_manifest}")
    _refuse_twice(source, "sample", [sample.key for sample in index.samples])
    for sample in index.samples:
        _check_sample(sample, manifest, index_path)
    _check_places(index.samples, index_path, size)
    return index.samples


def _check_sample(sample: SampleEntry, manifest: Manifest, index_path: Path) -> None:
    _check_name(sample.key, index_path)
    missing = [extension for extension in manifest.extensions if extension not in sample.members]
    if missing:
        raise DataError(f"{index_path}, sample {sample.key}: member '{missing[0]}' is missing. {PACK_AGAIN}")
    for extension, (_, length) in sample.members.items():
        _check_name(extension, index_path)
        if length > (largest := manifest.dataset.member_limit(extension)):
            raise DataError(
                f"{index_path}, sample {sample.key}: member {extension!r} has {length:,} bytes, at most {largest:,} "
                f"are allowed. {PACK_AGAIN}"
            )


def _check_places(samples: Iterable[SampleEntry], index_path: Path, size: int) -> None:
    """Members stand behind their headers, in the shard and not in each other."""
    places = sorted((*place, sample.key, name) for sample in samples for name, place in sample.members.items())
    end = 0
    for offset, length, key, name in places:
        if length < 1 or offset % TAR_BLOCK or offset < end + TAR_BLOCK or offset + length > size:
            raise DataError(
                f"{index_path}, sample {key}: member {name!r} at bytes {offset}..{offset + length} lies outside the "
                f"shard of {size} bytes, in another member or without a header in front. {PACK_AGAIN}"
            )
        end = offset + length


def _check_name(name: str, where: Path) -> None:
    unsafe = name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name
    if unsafe or len(name.encode(errors="replace")) > NAME_BYTES:
        raise DataError(
            f"{where}: name {shorten(name)} is no plain file name; expected one without path separators. {PACK_AGAIN}"
        )


def _refuse_twice(source: Source, what: str, names: list[Any]) -> None:
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise source.error(f"{what} {shorten(name)} is listed {count} times")


def _validate(model: type[_Model], raw: dict[str, Any], path: Path) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{describe_validation(str(path), error)}\n{PACK_AGAIN}") from error
