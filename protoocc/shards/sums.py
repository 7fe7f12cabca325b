"""The checksums that travel with a set, held against its small files and against what its manifest says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

from protoocc.shards.places import Place
from schemas.errors import DataError
from schemas.outside import shorten
from schemas.outside.limits import JSON_BYTES
from schemas.shards import CARD, CHECKSUMS, CROISSANT, Manifest, ShardEntry

_LINE: Final = re.compile(rb"([0-9a-f]{64})  ([^\0\n]{1,255})")
_REMEDY: Final = "Fetch it again, or ask whoever published the shards."


def sum_faults(place: Place, manifest: Manifest, shards: Sequence[ShardEntry]) -> list[str]:
    """What is wrong with `SHA256SUMS` or with the card, description and indexes for DALI that it lists.

    Sets of format 1 and parts of a set need not have it, or not all files; what is listed must be right.

    Args:
        place: where the set lies.
        manifest: of it.
        shards: those that are looked at.

    Raises:
        StageError: the line broke too often.
    """
    data = place.read(CHECKSUMS, JSON_BYTES)
    source = place.source(CHECKSUMS, _REMEDY)
    if data is None:
        return [str(source.error("not found"))] if manifest.shard_format > 1 else []
    lines = data.splitlines()
    wrong = [line for line in lines if not _LINE.fullmatch(line)]
    if wrong:
        return [str(source.damaged(f"{shorten(wrong[0])} is no checksum and name"))]
    listed = {found[2].decode(errors="replace"): found[1].decode() for line in lines if (found := _LINE.match(line))}
    return [*_told_otherwise(place, listed, shards), *_changed(place, listed, shards)]


def _told_otherwise(place: Place, listed: dict[str, str], shards: Sequence[ShardEntry]) -> Iterator[str]:
    """Tars and indexes whose checksums are not those of the manifest."""
    source = place.source(CHECKSUMS, _REMEDY)
    for shard in shards:
        for name, told in ((shard.url, shard.sha256), (shard.index, shard.index_sha256)):
            if told is not None and listed.get(name, told) != told:
                yield str(source.error(f"says that {name} has sha256 {listed[name]}, the manifest says {told}"))


def _changed(place: Place, listed: dict[str, str], shards: Sequence[ShardEntry]) -> Iterator[str]:
    """Small files that are listed, and are gone or have other bytes."""
    for name in (CARD, CROISSANT, *(shard.dali_index for shard in shards)):
        if (told := listed.get(name)) is None:
            continue
        source = place.source(name, _REMEDY)
        try:
            data = place.read(name, JSON_BYTES)
        except DataError as error:
            yield str(error)
            continue
        if data is None:
            yield str(source.error(f"not found, {CHECKSUMS} lists it"))
        elif (found := hashlib.sha256(data).hexdigest()) != told:
            yield str(source.error(f"has sha256 {found}, {CHECKSUMS} says {told}: changed"))
