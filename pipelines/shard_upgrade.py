"""Bringing shards of an older format to the present one, in place and offline: tars stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pipelines.files import folder_bytes, sha256_of, write_bytes, write_json
from pipelines.manifests import marker_path, read_marker, read_values
from pipelines.shard_card import dataset_card
from pipelines.shard_croissant import croissant
from pipelines.shard_file import dali_index, finish_shards, with_checksum
from pipelines.unit_files import hash_files
from schemas.errors import DataError
from schemas.lock import folder_lock
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.shard_checks import fingerprint, parse_index, parse_manifest
from schemas.shards import CARD, CHECKSUMS, CROISSANT, SHARD_FORMAT, Manifest, ShardEntry
from schemas.version import code_version
from schemas.workfolder import MANIFEST, PLAN

_REMEDY: Final = "Fetch or pack the shards again."


def upgrade_shards(folder: Path, update: Callable[[int, int], None] = lambda done, total: None) -> bool:
    """Gives shards all that the present format has; runs go on with them.

    A killed upgrade leaves a set of the old format, and the next one does all of it.

    Args:
        folder: of the shards.
        update: told how many shards are done.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: the set is damaged, unsafe or of a newer format, or the folder cannot be written.
        ConfigError: another program writes there.
    """
    with folder_lock(folder):
        path = folder / MANIFEST
        source = Source(str(path), _REMEDY)
        data = read_bytes(source, path, JSON_BYTES)
        manifest, raw = parse_manifest(source, data), parse_json(source, data)
        if manifest.shard_format == SHARD_FORMAT:
            return False
        shards = []
        for number, shard in enumerate(manifest.shardlist, 1):
            shards.append(_upgrade_shard(folder, shard, manifest))
            update(number, len(manifest.shardlist))
        fields = {"shard_format": SHARD_FORMAT, "shardlist": tuple(shards), "code_version": code_version()}
        new = manifest.model_copy(update={**fields, "formerly": fingerprint(manifest, data)})
        others = {CARD: dataset_card(new), CROISSANT: croissant(new)} if new.pixels is None else {}
        content = finish_shards(folder, new, others)
        _upgrade_stage(folder, raw, [shard.url.removesuffix(".tar") for shard in shards])
        files = {name: sha256_of([folder / name]) for name in sorted([*others, CHECKSUMS])}
        write_json(path, {**raw, **content, "files": files, "num_bytes": folder_bytes(folder)})
    return True


def _upgrade_shard(folder: Path, shard: ShardEntry, manifest: Manifest) -> ShardEntry:
    """Writes both indexes of a tar whose bytes are those of the manifest."""
    path, tar = folder / shard.index, folder / shard.url
    source = Source(str(path), _REMEDY)
    index = parse_index(source, read_bytes(source, path, JSON_BYTES), shard, manifest)
    if not tar.is_file() or tar.stat().st_size != shard.filesize:
        raise DataError(f"{tar} is missing or has other than the {shard.filesize:,} bytes of {MANIFEST}. {_REMEDY}")
    data = read_bytes(Source(str(tar), _REMEDY), tar, shard.filesize)
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DataError(f"{tar} does not have the sha256 {shard.sha256} that {MANIFEST} says: changed. {_REMEDY}")
    samples = tuple(with_checksum(sample, data) for sample in index.samples)
    index = index.model_copy(update={"samples": samples})
    write_bytes(folder / shard.dali_index, dali_index(index).encode())
    write_json(path, index.model_dump(mode="json"))
    return shard.model_copy(update={"index_sha256": sha256_of([path])})


def _upgrade_stage(folder: Path, manifest: dict[str, Any], units: list[str]) -> None:
    """Tells the stage that packed them, where its files are there, what its shards are now."""
    manifest["config"] = {**manifest.get("config", {}), "shard_format": SHARD_FORMAT}
    if not (folder / PLAN).is_file():
        return
    plan = read_values(folder / PLAN)
    write_json(folder / PLAN, {**plan, "config": {**plan["config"], "shard_format": SHARD_FORMAT}})
    for unit in units:
        marker = read_marker(folder, unit)
        if marker is not None:
            wrote = hash_files(folder, [f"{unit}.{ending}" for ending in ("tar", "index.json", "idx")])
            write_json(marker_path(folder, unit), marker.model_copy(update={"wrote": wrote}).model_dump(mode="json"))
