"""One shard: a POSIX tar of samples with zeroed times and owners, and where its members lie, for us and for DALI."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.files import sha256_of, write_bytes, write_json
from pipelines.own_files import UNIT
from pipelines.stage import Piece, Unit
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord
from schemas.settings import describe_validation
from schemas.shards import (
    CHECKSUMS,
    SHARD_FORMAT,
    WIDS_KIND,
    DatasetInfo,
    Manifest,
    SampleEntry,
    ShardEntry,
    ShardIndex,
    padded,
    sample_key,
)
from schemas.version import code_version

TAR = f"{UNIT}.tar"
SHARD_INDEX = f"{UNIT}.index.json"
DALI_INDEX = f"{UNIT}.idx"
"""As `fn.readers.webdataset` of DALI takes it in `index_paths`."""
DALI_VERSION = "v1.2"


def files_of_shard(unit: Unit) -> list[Piece]:
    """What the unit of a shard writes."""
    return [Piece(unit.name, tuple(name.replace(UNIT, unit.name) for name in (TAR, SHARD_INDEX, DALI_INDEX)))]


def split_of(unit: Unit) -> str:
    """Split of the unit of a shard."""
    return unit.name.rpartition("-")[0]


def write_shard(
    folder: Path, name: str, split: str, samples: Iterable[tuple[SampleRecord, Mapping[str, bytes]]]
) -> ShardIndex:
    """Writes `<name>.tar`, `<name>.index.json` and `<name>.idx`; the same samples give the same bytes.

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
        samples=tuple(with_checksum(entry, data) for entry in entries),
        sha256=hashlib.sha256(data).hexdigest(),
        md5sum=hashlib.md5(data).hexdigest(),
        filesize=len(data),
    )
    write_bytes(folder / index.shard, data)
    write_json(_index_path(folder, name), index.model_dump(mode="json"))
    write_bytes(folder / DALI_INDEX.replace(UNIT, name), dali_index(index).encode())
    return index


def dali_index(index: ShardIndex) -> str:
    """The places of all members as NVIDIA DALI reads them: a line for each sample with name, offset and size."""
    lines = [f"{DALI_VERSION} {len(index.samples)}"]
    for sample in index.samples:
        places = sorted(sample.members.items(), key=lambda member: member[1])
        lines.append(" ".join(f"{name} {offset} {size} {sample.key}.{name}" for name, (offset, size) in places))
    return "\n".join(lines) + "\n"


def shard_entry(folder: Path, name: str) -> ShardEntry:
    """What the manifest says about a written shard, from its index.

    Raises:
        DataError: the index is missing or damaged.
    """
    path = _index_path(folder, name)
    try:
        stored = path.read_bytes()
        index = ShardIndex.model_validate_json(stored)
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Run `protoocc pack --overwrite`.") from None
    except ValidationError as error:
        raise DataError(f"{describe_validation(str(path), error)}\nRun `protoocc pack --overwrite`.") from error
    return ShardEntry(
        url=index.shard,
        index=path.name,
        index_sha256=hashlib.sha256(stored).hexdigest(),
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


def make_manifest(dataset: DatasetSpec, folder: Path, names: Iterable[str], **fields: Any) -> Manifest:
    """What `manifest.json` says of written shards.

    Args:
        dataset: entry that they were packed from.
        folder: where they lie.
        names: of the shards, in order, without an ending.
        fields: what the stage adds.

    Raises:
        DataError: an index is missing or damaged.
    """
    return Manifest(
        shard_format=SHARD_FORMAT,
        name=dataset.name,
        dataset=dataset_info(dataset),
        licence=dataset.licence,
        attribution=dataset.attribution,
        code_version=code_version(),
        shardlist=tuple(shard_entry(folder, name) for name in names),
        **fields,
    )


def finish_shards(folder: Path, manifest: Manifest, others: Mapping[str, str]) -> dict[str, Any]:
    """Writes what stands beside the shards; returns the content of `manifest.json`, a valid wids-shard-index-v1.

    Args:
        folder: of the shards.
        manifest: of them.
        others: name -> text of further files. `SHA256SUMS` lists them after each shard and its indexes.
    """
    for name, text in others.items():
        write_bytes(folder / name, text.encode())
    shards = [
        (file, digest)
        for shard in manifest.shardlist
        for file, digest in (
            (shard.url, shard.sha256),
            *((name, sha256_of([folder / name])) for name in (shard.index, shard.dali_index)),
        )
    ]
    texts = [(name, hashlib.sha256(text.encode()).hexdigest()) for name, text in others.items()]
    write_bytes(folder / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in (*shards, *texts)).encode())
    return {"__kind__": WIDS_KIND, "wids_version": 1, **manifest.model_dump(mode="json")}


def with_checksum(entry: SampleEntry, tar: bytes) -> SampleEntry:
    """A sample of an index with the SHA-256 of its bytes in the tar."""
    start, stop = entry.span
    return entry.model_copy(update={"sha256": hashlib.sha256(memoryview(tar)[start:stop]).hexdigest()})


def _index_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.index.json"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Appends a member; returns its offset and size."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - padded(len(data)), len(data)
