"""One shard: a POSIX tar of samples with zeroed times and owners, and its index of (offset, size) per member."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.files import write_bytes, write_json
from pipelines.own_files import UNIT
from pipelines.stage import Piece, Unit
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord
from schemas.settings import describe_validation
from schemas.shards import (
    CHECKSUMS,
    WIDS_KIND,
    DatasetInfo,
    Manifest,
    SampleEntry,
    ShardEntry,
    ShardIndex,
    sample_key,
)

TAR = f"{UNIT}.tar"
SHARD_INDEX = f"{UNIT}.index.json"


def files_of_shard(unit: Unit) -> list[Piece]:
    """What the unit of a shard writes."""
    return [Piece(unit.name, tuple(name.replace(UNIT, unit.name) for name in (TAR, SHARD_INDEX)))]


def split_of(unit: Unit) -> str:
    """Split of the unit of a shard."""
    return unit.name.rpartition("-")[0]


def write_shard(
    folder: Path, name: str, split: str, samples: Iterable[tuple[SampleRecord, Mapping[str, bytes]]]
) -> ShardIndex:
    """Writes `<name>.tar` and `<name>.index.json`; the same samples give the same bytes.

    Args:
        folder: of the shards.
        name: of this shard, without an ending.
        split: that all its samples belong to.
        samples: record and members (extension -> content) of each, in order.

    Raises:
        DataError: the disk is full.
    """
    buffer = io.BytesIO()
    entries: list[SampleEntry] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for record, members in samples:
            key = sample_key(record.scene, record.frame)
            places = {extension: _add(tar, f"{key}.{extension}", data) for extension, data in members.items()}
            entry = SampleEntry(key=key, token=record.token, scene=record.scene, frame=record.frame, members=places)
            entries.append(entry)
    data = buffer.getvalue()
    index = ShardIndex(
        shard=f"{name}.tar",
        split=split,
        samples=tuple(entries),
        sha256=hashlib.sha256(data).hexdigest(),
        md5sum=hashlib.md5(data).hexdigest(),
        filesize=len(data),
    )
    write_bytes(folder / index.shard, data)
    write_json(_index_path(folder, name), index.model_dump(mode="json"))
    return index


def shard_entry(folder: Path, name: str) -> ShardEntry:
    """What the manifest says about a written shard, from its index.

    Raises:
        DataError: the index is missing or damaged.
    """
    path = _index_path(folder, name)
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Run `protoocc pack --overwrite`.") from None
    except ValidationError as error:
        raise DataError(f"{describe_validation(str(path), error)}\nRun `protoocc pack --overwrite`.") from error
    return ShardEntry(
        url=index.shard,
        index=path.name,
        split=index.split,
        nsamples=len(index.samples),
        filesize=index.filesize,
        md5sum=index.md5sum,
        sha256=index.sha256,
        scenes=tuple(sorted({sample.scene for sample in index.samples})),
    )


def dataset_info(dataset: DatasetSpec) -> DatasetInfo:
    """What the manifest says about the dataset of its shards."""
    return DatasetInfo(
        name=dataset.name,
        cameras=dataset.cameras,
        image_shape=dataset.image.shape,
        grid=dataset.grid,
        classes=dataset.classes,
    )


def finish_manifest(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Writes the checksums of all shards; returns the content of `manifest.json`, a valid wids-shard-index-v1."""
    sums = "".join(f"{shard.sha256}  {shard.url}\n" for shard in manifest.shardlist)
    write_bytes(folder / CHECKSUMS, sums.encode())
    return {"__kind__": WIDS_KIND, "wids_version": 1, **manifest.model_dump(mode="json")}


def _index_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.index.json"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Appends a member; returns its offset and size."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded, len(data)
