"""Shards as a pipeline of the webdataset library, for training loops of other people."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import webdataset

from protoocc.data.decode import decode_keyframe
from protoocc.shards.joined import joined_members, read_root
from protoocc.shards.members import cut_members
from protoocc.shards.places import Place
from protoocc.shards.pull import choose_shards, read_remote_index, read_remote_manifest
from schemas.errors import ConfigError, DataError
from schemas.shards import META_MEMBER, Manifest, SampleEntry, ShardEntry
from schemas.workfolder import MANIFEST


def as_webdataset(address: str | Path, split: str) -> Any:
    """A `webdataset.FluidWrapper` over one pass of a split: decoded samples in the order of the tars.

    Shards are dealt to the processes of a distributed run and to the workers of a loader. Nothing is shuffled: append
    `.shuffle(...)`, `.batched(...)`, `.map(...)` and so on.

    Args:
        address: folder of the shards, or where they lie as `protoocc pull` takes it.
        split: one of theirs.

    Returns:
        Gives mappings with `__key__`, `__url__`, `token` and the arrays of `protoocc.data.Keyframe` that the shards
        hold, by their names there. While it is read, it raises a `DataError` for whatever is damaged, and a
        `StageError` where the line broke too often.

    Raises:
        ConfigError: no such split, an address of another kind, or a set without images that was not joined.
        DataError: there are no shards, they are image targets, or their manifest is damaged or unsafe.
    """
    place = Place(str(address))
    manifest, _ = read_remote_manifest(place)
    if manifest.pixels is not None:
        raise DataError(f"{place.address} holds image targets; expected occupancy shards of `protoocc pack`")
    root = None if place.folder is None else read_root(place.folder)
    if manifest.image_files is not None and root is None:
        raise ConfigError(
            f"{place.address} holds no images. `protoocc pull` it, then `protoocc join FOLDER --images ROOT`."
        )
    shards = {shard.url: shard for shard in choose_shards(manifest, [split], None)}
    stages = [webdataset.SimpleShardList(list(shards)), webdataset.split_by_node, webdataset.split_by_worker]
    return webdataset.FluidWrapper(webdataset.DataPipeline(*stages, partial(_samples, place, manifest, shards, root)))


def _samples(
    place: Place,
    manifest: Manifest,
    shards: Mapping[str, ShardEntry],
    root: Path | None,
    urls: Iterable[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    for url in urls:
        shard = shards[url["url"]]
        index, _ = read_remote_index(place, shard, manifest)
        samples = sorted(index.samples, key=lambda sample: sample.span)
        for sample, data in _spans(place, shard, samples):
            where = Path(shard.url)
            name = f"{place.address}/{shard.url}, sample {sample.key}"
            members = cut_members(name, sample, data, manifest.extensions)
            if manifest.image_files is not None:
                members |= joined_members(name, manifest.image_files, members[META_MEMBER], root)
            keyframe = decode_keyframe(where, sample, members, manifest.dataset)
            fields = {field.name: getattr(keyframe, field.name) for field in dataclasses.fields(keyframe)}
            held = {name: value for name, value in fields.items() if value is not None}
            yield {"__key__": sample.key, "__url__": f"{place.address}/{shard.url}", **held}


def _spans(place: Place, shard: ShardEntry, samples: Sequence[SampleEntry]) -> Iterator[tuple[SampleEntry, bytes]]:
    """Each sample with its bytes, out of one pass over the tar.

    Raises:
        DataError: bytes are not those of the index, or, where it has no checksums of samples, of the manifest.
    """
    whole, held, position = hashlib.sha256(), bytearray(), 0
    waiting = iter(samples)
    sample = next(waiting, None)
    for block in place.blocks(shard.url, 0, shard.filesize):
        whole.update(block)
        held += block
        if sample is not None and position < sample.span[0]:  # bytes that no sample of the index has
            unused = min(len(held), sample.span[0] - position)
            position += unused
            del held[:unused]
        while sample is not None and position + len(held) >= sample.span[1]:
            start, stop = sample.span
            data = bytes(held[start - position : stop - position])
            if sample.sha256 not in (None, hashlib.sha256(data).hexdigest()):
                raise DataError(f"{place.address}/{shard.url}, sample {sample.key}: other bytes than its index says")
            yield sample, data
            del held[: stop - position]
            position, sample = stop, next(waiting, None)
    if whole.hexdigest() != shard.sha256:
        raise DataError(f"{place.address}/{shard.url} has sha256 {whole.hexdigest()}, {MANIFEST} says {shard.sha256}")
