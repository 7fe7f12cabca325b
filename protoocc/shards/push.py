"""Publishing a set of shards: checked first, what is there already is not sent again, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from protoocc.shards.folder import read_shard_manifest
from protoocc.shards.places import Place
from protoocc.shards.pull import Transfer
from protoocc.shards.verify import verify
from schemas.errors import ConfigError, DataError, ProtoOccError
from schemas.outside.limits import JSON_BYTES
from schemas.shard_checks import fingerprint, parse_manifest
from schemas.shards import CARD, CHECKSUMS, CROISSANT, Manifest, ShardEntry
from schemas.workfolder import MANIFEST

Update = Callable[[int, int], None]
"""Takes sent and total bytes."""
_SMALL: Final = (CARD, CROISSANT, CHECKSUMS)


def push(folder: Path, place: Place, *, workers: int = 4, update: Update = lambda done, total: None) -> Transfer:
    """Copies a set of shards to a place that others can read.

    All of it is verified here first. A tar counts as there when its index, which is sent after it, is there with the
    right SHA-256 and the tar has the right size; so a killed push goes on where it was.

    Args:
        folder: of the shards.
        place: where they should lie.
        workers: files at a time.
        update: told how many bytes are there.

    Raises:
        ConfigError: other shards lie there, or nothing can be written there.
        DataError: the shards are damaged, or may not be written.
        StageError: the line broke too often; what was sent stays.
    """
    manifest = read_shard_manifest(folder)
    _check_here(folder)
    _check_there(folder, manifest, place)
    total = sum(shard.filesize for shard in manifest.shardlist)
    moved = kept = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = {pool.submit(_push_shard, folder, shard, place): shard for shard in manifest.shardlist}
        try:
            for job in as_completed(jobs):
                size = jobs[job].filesize
                moved, kept = (moved + size, kept) if job.result() else (moved, kept + size)
                update(moved + kept, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for name in (*_SMALL, MANIFEST):
        if (path := folder / name).is_file() and place.read(name, JSON_BYTES) != path.read_bytes():
            place.put(name, path)
    samples = sum(shard.nsamples for shard in manifest.shardlist)
    return Transfer(len(manifest.shardlist), samples, moved, kept)


def _check_here(folder: Path) -> None:
    """Raises a `DataError` where a shard is not what the manifest says: it must not travel."""
    faults = verify(Place(str(folder))).faults
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more} Nothing was sent.")


def _check_there(folder: Path, manifest: Manifest, place: Place) -> None:
    """Raises a `ConfigError` where another set lies there."""
    there = place.read(MANIFEST, JSON_BYTES)
    if there is None:
        return
    ours = fingerprint(manifest, (folder / MANIFEST).read_bytes())
    try:
        other = parse_manifest(place.source(MANIFEST), there)
    except ProtoOccError as error:
        raise ConfigError(
            f"{place.address} holds a manifest that cannot be read ({error}). Choose another place."
        ) from error
    if fingerprint(other, there) != ours:
        raise ConfigError(f"{place.address} holds other shards ('{other.name}'). Choose another place, or empty it.")


def _push_shard(folder: Path, shard: ShardEntry, place: Place) -> bool:
    """Sends a tar, then its indexes; whether the tar had to be sent."""
    index = (folder / shard.index).read_bytes()
    there = place.read(shard.index, JSON_BYTES)
    is_there = there is not None and hashlib.sha256(there).digest() == hashlib.sha256(index).digest()
    if is_there and place.size(shard.url) == shard.filesize:
        return False
    place.put(shard.url, folder / shard.url)
    for name in (shard.dali_index, shard.index):
        if (path := folder / name).is_file():
            place.put(name, path)
    return True
