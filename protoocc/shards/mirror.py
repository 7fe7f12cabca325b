"""A set of shards that lies elsewhere, as a folder here: manifest and indexes, and a cache for samples.

Whatever opens a folder of shards opens a mirror; only the tars stay where they are.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protoocc.shards.places import Place
from protoocc.shards.pull import read_remote_index, read_remote_manifest
from protoocc.shards.remote import LEAST_LIMIT, REMOTE
from schemas.errors import ConfigError, DataError, disk_errors
from schemas.files import write_bytes
from schemas.lock import folder_lock
from schemas.outside import read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.shard_checks import fingerprint, parse_index
from schemas.shards import Manifest, ShardEntry
from schemas.workfolder import MANIFEST


def mirror(place: Place, cache: Path, *, limit: int, workers: int = 8) -> Path:
    """Makes or finds the mirror of a set of shards.

    Args:
        place: where it lies; it must be able to give parts of files.
        cache: folder for mirrors; each lies in a folder named by the fingerprint of its set.
        limit: bytes of samples that the mirror may keep.
        workers: indexes that are fetched at a time.

    Returns:
        The folder, to be opened by `open_shards`.

    Raises:
        ConfigError: the set cannot be streamed, because its format or its server gives no samples; or a tiny limit.
        DataError: it is damaged or unsafe.
        StageError: the line broke too often.
    """
    if limit < LEAST_LIMIT:
        raise ConfigError(f"a cache of {limit:,} bytes is too small; expected at least {LEAST_LIMIT:,}")
    manifest, data = read_remote_manifest(place)
    if manifest.shard_format < 2:
        raise ConfigError(
            f"{place.address} has shard format 1, which has no checksums of samples and cannot be streamed. Fetch it "
            "whole with `protoocc pull`, or ask whoever published it to run `protoocc upgrade` and push it again."
        )
    if not place.gives_parts(manifest.shardlist[0].url):
        raise ConfigError(
            f"{place.address}: the server gives no parts of files, so nothing can be streamed from it. Fetch the "
            "shards whole with `protoocc pull`."
        )
    folder = cache / fingerprint(manifest, data)[:16]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        _fetch_indexes(place, folder, manifest, workers)
        write_bytes(folder / REMOTE, json.dumps({"address": place.address, "limit": limit}).encode())
        write_bytes(folder / MANIFEST, data)
    return folder


def _fetch_indexes(place: Place, folder: Path, manifest: Manifest, workers: int) -> None:
    """Fetches the indexes that are not there or are of another packing."""

    def fetch(shard: ShardEntry) -> None:
        path = folder / shard.index
        source = place.source(shard.index, "Ask whoever published the shards.")
        try:
            parse_index(source, read_bytes(source, path, JSON_BYTES), shard, manifest)
        except DataError:
            write_bytes(path, read_remote_index(place, shard, manifest)[1])

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in pool.map(fetch, manifest.shardlist):
            pass
