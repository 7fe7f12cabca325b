"""The shards folder: manifest and offset index, checked before the first byte of a sample is read.

Format: `schemas.shards`. Here sizes, names and places must agree; `verify_shard` compares checksums as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from protoocc.shards.joined import read_root
from protoocc.shards.remote import Remote, read_remote
from schemas.errors import DataError
from schemas.outside import Source, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.shard_checks import PACK_AGAIN, fingerprint, parse_index, parse_manifest, refuse_twice
from schemas.shards import DatasetInfo, Manifest, SampleEntry, ShardEntry
from schemas.workfolder import MANIFEST


@dataclass(frozen=True)
class ShardSet:
    """The samples of one split of a checked shards folder, in order of shard, scene and time."""

    folder: Path
    split: str
    manifest: Manifest
    fingerprint: str
    """SHA-256 over what all splits hold, whatever it was made from and wherever it lies."""
    samples: tuple[tuple[Path, SampleEntry], ...]
    """Each with its tar, which lies elsewhere in a mirror."""
    remote: Remote | None = None
    """Where the tars of a mirror lie; None where they lie in the folder."""
    images: Path | None = None
    """Root of the raw data that a set without images was joined with."""

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
    manifest = parse_manifest(source, data)
    return manifest, fingerprint(manifest, data)


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
    manifest, known_by = _read_manifest(folder)
    source = Source(str(folder / MANIFEST), PACK_AGAIN)
    if (manifest.pixels is not None) != pixels:
        held = "image targets" if manifest.pixels is not None else "occupancy shards"
        wanted = "image targets of `protoocc pretrain targets`" if pixels else "occupancy shards of `protoocc pack`"
        raise DataError(f"{folder} holds {held}; expected {wanted}")
    shards = [shard for shard in manifest.shardlist if shard.split == split]
    if not shards:
        known = ", ".join(sorted({shard.split for shard in manifest.shardlist}))
        raise DataError(f"{folder / MANIFEST} has no split '{split}'; known: {known}")
    remote = read_remote(folder)
    if remote is None:
        for shard in shards:
            _check_tar(folder, shard)
    samples = list[tuple[Path, SampleEntry]]()
    for shard in shards:
        tar = folder / shard.url
        samples += [(tar, sample) for sample in _shard_samples(folder, shard, manifest)]
    refuse_twice(source, f"split '{split}': sample", [sample.token for _, sample in samples])
    refuse_twice(source, f"split '{split}': keyframe", [(sample.scene, sample.frame) for _, sample in samples])
    return ShardSet(folder, split, manifest, known_by, tuple(samples), remote, read_root(folder))


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


def _check_tar(folder: Path, shard: ShardEntry) -> None:
    tar = folder / shard.url
    if not tar.is_file():
        raise DataError(f"{tar} is missing, {MANIFEST} lists it. {PACK_AGAIN}")
    size = tar.stat().st_size
    if size != shard.filesize:
        raise DataError(f"{tar} has {size} bytes, {MANIFEST} says {shard.filesize}: truncated or changed. {PACK_AGAIN}")


def _shard_samples(folder: Path, shard: ShardEntry, manifest: Manifest) -> tuple[SampleEntry, ...]:
    path = folder / shard.index
    if not path.is_file():
        raise DataError(f"{path} is missing, {MANIFEST} lists it. {PACK_AGAIN}")
    source = Source(str(path), PACK_AGAIN)
    return parse_index(source, read_bytes(source, path, JSON_BYTES), shard, manifest).samples
