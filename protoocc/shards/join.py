"""Joining a set of shards without images with the raw data that it was packed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from protoocc.shards.folder import open_shards, read_shard_manifest
from protoocc.shards.joined import camera_files, checked_file, joined_members, write_root
from protoocc.shards.members import MemberReader
from schemas.errors import ConfigError, DataError
from schemas.outside import Source
from schemas.shards import META_MEMBER, ImageFiles


def join_images(folder: Path, root: Path, update: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Says in a folder of shards where the raw data lie, after a look at the first sample of each shard.

    Readers check each camera file again, by size and SHA-256, whenever they use it; `verify` checks all of them.

    Args:
        folder: of the shards, or a mirror.
        root: of the raw data.
        update: told how many shards were looked at.

    Returns:
        Number of camera files that were looked at.

    Raises:
        ConfigError: the set holds its images.
        DataError: the set is damaged, or a camera file is missing or another one; nothing is written then.
    """
    files = _files(folder)
    total, looked_at = len(read_shard_manifest(folder).shardlist), 0
    for number, (where, meta) in enumerate(_metas(folder, first_only=True), 1):
        looked_at += len(joined_members(where, files, meta, root))
        update(number, total)
    write_root(folder, root)
    return looked_at


def image_faults(folder: Path, root: Path) -> list[str]:
    """What is wrong with the camera files of a joined set, a sentence for each sample; reads all of them."""
    faults, files = [], _files(folder)
    for where, meta in _metas(folder, first_only=False):
        try:
            for file in camera_files(where, files, meta).values():
                checked_file(Source(f"{where}: camera file {root / file.path}"), root, file)
        except DataError as error:
            faults.append(str(error))
    return faults


def _files(folder: Path) -> ImageFiles:
    files = read_shard_manifest(folder).image_files
    if files is None:
        raise ConfigError(f"{folder} holds its images; there is nothing to join")
    return files


def _metas(folder: Path, *, first_only: bool) -> Iterator[tuple[str, bytes]]:
    """How messages call a sample, and its `meta.json`: of all samples, or the first of each shard."""
    for split in read_shard_manifest(folder).by_split:
        reader = MemberReader(open_shards(folder, split))
        seen = set()
        for index, (shard, _) in enumerate(reader.shards.samples):
            if shard not in seen or not first_only:
                yield reader.where(index), reader.read(index, [META_MEMBER])[META_MEMBER]
            seen.add(shard)
        reader.close()
