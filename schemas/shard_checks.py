"""Manifest and index of shards, parsed and checked wherever they come from: nothing in them is taken on trust."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import DataError
from schemas.outside import Source, parse_json, shorten
from schemas.outside.limits import NAME_BYTES, SHARD_NAME_BYTES
from schemas.settings import describe_validation
from schemas.shards import (
    INDEX_ENDING,
    SHARD_FORMAT,
    TAR_BLOCK,
    TAR_ENDING,
    WIDS_KIND,
    Manifest,
    SampleEntry,
    ShardEntry,
    ShardIndex,
    padded,
)
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST

PACK_AGAIN = "Run `protoocc pack --overwrite` (or fetch the shards again)."
_Model = TypeVar("_Model", bound=BaseModel)


def parse_manifest(source: Source, data: bytes) -> Manifest:
    """The manifest of a set of shards.

    Args:
        source: where it is from and what helps, for messages.
        data: the file.

    Raises:
        DataError: it is damaged, has another or a newer format, lists a file twice, names one that is no plain file
            name or that other files of the folder have, lacks checksums, or describes what no packed dataset has.
    """
    raw = parse_json(source, data)
    found = (raw.get("__kind__"), raw.get("format_version"))
    if found != (WIDS_KIND, FORMAT_VERSION):
        raise DataError(
            f"{source.where} has kind {shorten(found[0])}, format version {shorten(found[1])}; this program reads "
            f"'{WIDS_KIND}', {FORMAT_VERSION}. {source.remedy}"
        )
    manifest = _validate(Manifest, raw, source)
    if manifest.shard_format > SHARD_FORMAT:
        raise DataError(
            f"{source.where} has shard format {manifest.shard_format}, this program reads up to {SHARD_FORMAT}: a "
            "newer one packed the shards. Update protoocc."
        )
    for fault in manifest.faults():
        raise source.error(fault)
    files = [name for shard in manifest.shardlist for name in (shard.url, shard.index)]
    refuse_twice(source, "file", files)
    for name in [*manifest.extensions, *files]:
        _check_name(name, source)
    for shard in manifest.shardlist:
        _check_files(shard, source)
        if manifest.shard_format > 1 and shard.index_sha256 is None:
            raise source.error(f"{shard.url} has no index_sha256, which shard format {manifest.shard_format} has")
    return manifest


def parse_index(source: Source, data: bytes, shard: ShardEntry, manifest: Manifest) -> ShardIndex:
    """The index of a shard.

    Args:
        source: where it is from and what helps, for messages.
        data: the file.
        shard: what the manifest says of it.
        manifest: of the shards.

    Raises:
        DataError: it is damaged or changed, of another shard, lists a sample twice, a place outside the shard or in
            another one, members of a sample that do not follow each other, an unsafe name or a member that is too
            large, or lacks a member or a checksum.
    """
    if shard.index_sha256 not in (None, found := hashlib.sha256(data).hexdigest()):
        raise source.error(f"has sha256 {found}, {MANIFEST} says {shard.index_sha256}: changed")
    index = _validate(ShardIndex, parse_json(source, data), source)
    if len(index.samples) != shard.nsamples:
        raise source.error(f"lists {len(index.samples)} samples, {MANIFEST} says {shard.nsamples}")
    of_index, of_manifest = (index.shard, index.split, index.sha256), (shard.url, shard.split, shard.sha256)
    if of_index != of_manifest:
        raise source.error(f"is of shard, split and sha256 {of_index}, {MANIFEST} says {of_manifest}")
    refuse_twice(source, "sample", [sample.key for sample in index.samples])
    refuse_twice(source, "token", [sample.token for sample in index.samples])
    members = _Members(manifest, source)
    for sample in index.samples:
        members.check(sample)
    _check_places(index.samples, source, shard.filesize)
    return index


def fingerprint(manifest: Manifest, data: bytes) -> str:
    """SHA-256 over what all shards hold, whatever they were made from and wherever they lie.

    Of format 1 it is the SHA-256 of the file, by which the checkpoints of its time know their shards; it stays when the
    set is upgraded.

    Args:
        manifest: of the shards.
        data: its file.
    """
    if manifest.formerly is not None:
        return manifest.formerly
    if manifest.shard_format > 1:
        shards = [(shard.url, shard.split, shard.sha256) for shard in manifest.shardlist]
        shared = manifest.model_dump(mode="json", include={"dataset", "masks", "depth", "pixels"})
        data = json.dumps([shared, shards], sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def refuse_twice(source: Source, what: str, names: list[Any]) -> None:
    """Raises a `DataError` where a name stands in the list more than once."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise source.error(f"{what} {shorten(name)} is listed {count} times")


def _check_files(shard: ShardEntry, source: Source) -> None:
    """A tar and its index have their own endings, so that neither takes the place of another file of the folder."""
    for name, ending in ((shard.url, TAR_ENDING), (shard.index, INDEX_ENDING)):
        if not name.endswith(ending) or len(name.encode(errors="replace")) > SHARD_NAME_BYTES:
            raise source.error(
                f"file {shorten(name)} is none of a shard; expected a name that ends in {ending} and has at most "
                f"{SHARD_NAME_BYTES} bytes"
            )


class _Members:
    """Checks what samples of an index hold; names and limits are the same in most and looked at once."""

    def __init__(self, manifest: Manifest, source: Source) -> None:
        self._manifest, self._wanted, self._source = manifest, manifest.extensions, source
        self._limits: dict[str, int] = {}

    def check(self, sample: SampleEntry) -> None:
        """Raises a `DataError` for an unsafe name, a missing checksum or member, or a member that is too large."""
        _check_name(sample.key, self._source)
        if (version := self._manifest.shard_format) > 1 and sample.sha256 is None:
            raise self._source.error(f"sample {sample.key} has no sha256, which shard format {version} has")
        missing = [extension for extension in self._wanted if extension not in sample.members]
        if missing:
            raise self._source.error(f"sample {sample.key}: member '{missing[0]}' is missing")
        for extension, (_, length) in sample.members.items():
            if (largest := self._limits.get(extension)) is None:
                _check_name(extension, self._source)
                largest = self._limits[extension] = self._manifest.dataset.member_limit(extension)
            if length > largest:
                raise self._source.error(
                    f"sample {sample.key}: member {extension!r} has {length:,} bytes, at most {largest:,} are allowed"
                )


def _check_places(samples: Iterable[SampleEntry], source: Source, size: int) -> None:
    """Members stand behind their headers, in the shard and not in each other, those of a sample without a gap."""
    places = sorted((*place, sample.key, name) for sample in samples for name, place in sample.members.items())
    end, last, seen = 0, "", set()
    for offset, length, key, name in places:
        if length < 1 or offset % TAR_BLOCK or offset < end + TAR_BLOCK or offset + length > size:
            raise source.error(
                f"sample {key}: member {name!r} at bytes {offset}..{offset + length} lies outside the shard of {size} "
                "bytes, in another member or without a header in front"
            )
        if key == last and offset != padded(end) + TAR_BLOCK or key != last and key in seen:
            raise source.error(f"sample {key}: member {name!r} does not follow the sample's other members")
        end, last = offset + length, key
        seen.add(key)


def _check_name(name: str, source: Source) -> None:
    unsafe = name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name
    if unsafe or len(name.encode(errors="replace")) > NAME_BYTES:
        raise source.error(f"name {shorten(name)} is no plain file name; expected one without path separators")


def _validate(model: type[_Model], raw: dict[str, Any], source: Source) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{describe_validation(source.where, error)}\n{source.remedy}".rstrip()) from error
