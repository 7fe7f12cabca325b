"""The shards folder: manifest and offset index, checked before the first byte of a sample is read.

Format: `schemas.shards`. Checksums are the business of `protoocc verify`; here sizes and names must agree.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import DataError
from schemas.settings import describe_validation
from schemas.shards import WIDS_KIND, DatasetInfo, Manifest, SampleEntry, ShardEntry, ShardIndex
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
    """SHA-256 of manifest.json, which holds the checksums of all shards."""
    samples: tuple[tuple[Path, SampleEntry], ...]

    @property
    def dataset(self) -> DatasetInfo:
        """Shapes and names that all samples share."""
        return self.manifest.dataset


def read_shard_manifest(folder: Path) -> Manifest:
    """Reads and checks `manifest.json` of a shards folder.

    Raises:
        DataError: the folder is not finished, or the manifest is damaged or has another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} holds no finished shards (no {MANIFEST}). Run `protoocc pack` first.")
    raw = _read_json(path)
    found = (raw.get("__kind__"), raw.get("format_version"))
    if found != (WIDS_KIND, FORMAT_VERSION):
        raise DataError(
            f"{path} has kind {found[0]!r}, format version {found[1]!r}; this program reads '{WIDS_KIND}', "
            f"{FORMAT_VERSION}. {PACK_AGAIN}"
        )
    return _validate(Manifest, raw, path)


def open_shards(folder: Path, split: str) -> ShardSet:
    """Reads and checks manifest and indexes of one split.

    Raises:
        DataError: no manifest, another format version, an unknown split, a shard that is missing or has another size
            than the manifest says, an index that points outside its shard, a missing member, an unsafe name.
    """
    manifest, path = read_shard_manifest(folder), folder / MANIFEST
    shards = [shard for shard in manifest.shardlist if shard.split == split]
    if not shards:
        known = ", ".join(sorted({shard.split for shard in manifest.shardlist}))
        raise DataError(f"{path} has no split '{split}'; known: {known}")
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    samples = [entry for shard in shards for entry in _shard_samples(folder, shard, manifest.extensions)]
    return ShardSet(folder, split, manifest, fingerprint, tuple(samples))


def _shard_samples(folder: Path, shard: ShardEntry, extensions: tuple[str, ...]) -> list[tuple[Path, SampleEntry]]:
    for name in (shard.url, shard.index):
        _check_name(name, folder / MANIFEST)
    tar, index_path = folder / shard.url, folder / shard.index
    for file in (tar, index_path):
        if not file.is_file():
            raise DataError(f"{file} is missing, {MANIFEST} lists it. {PACK_AGAIN}")
    size = tar.stat().st_size
    if size != shard.filesize:
        raise DataError(f"{tar} has {size} bytes, {MANIFEST} says {shard.filesize}: truncated or changed. {PACK_AGAIN}")
    samples = _validate(ShardIndex, _read_json(index_path), index_path).samples
    if len(samples) != shard.nsamples:
        raise DataError(f"{index_path} lists {len(samples)} samples, {MANIFEST} says {shard.nsamples}. {PACK_AGAIN}")
    for sample in samples:
        _check_sample(sample, extensions, index_path, size)
    return [(tar, sample) for sample in samples]


def _check_sample(sample: SampleEntry, extensions: tuple[str, ...], index_path: Path, size: int) -> None:
    _check_name(sample.key, index_path)
    missing = [extension for extension in extensions if extension not in sample.members]
    if missing:
        raise DataError(f"{index_path}, sample {sample.key}: member '{missing[0]}' is missing. {PACK_AGAIN}")
    for extension, (offset, length) in sample.members.items():
        _check_name(extension, index_path)
        if offset < 0 or length < 1 or offset + length > size:
            raise DataError(
                f"{index_path}, sample {sample.key}: member '{extension}' at bytes {offset}..{offset + length} lies "
                f"outside the shard of {size} bytes. {PACK_AGAIN}"
            )


def _check_name(name: str, where: Path) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise DataError(f"{where}: name {name!r} is no plain file name; expected one without path separators")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}. {PACK_AGAIN}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: expected a JSON object, found {type(value).__name__}. {PACK_AGAIN}")
    return value


def _validate(model: type[_Model], raw: dict[str, Any], path: Path) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{describe_validation(str(path), error)}\n{PACK_AGAIN}") from error
