"""Stage `pack`: records, geometry, labels and masks become WebDataset shards with an index, checksums and a card.

A shard holds whole scenes of one split in order of time. The tar is POSIX ustar with zeroed times and owners, so the
same input gives the same bytes. `manifest.json` is a valid wids-shard-index-v1 with further keys.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipelines.files import sha256_of, write_bytes, write_json
from pipelines.images import read_image, resize_and_crop
from pipelines.shard_card import dataset_card
from pipelines.stage import Runtime, Stage, StageSummary, Unit, UnitReport, read_manifest, run_stage, scene_units
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.records import RecordEntry, SampleRecord, read_index, read_records
from schemas.settings import Frozen
from schemas.shards import CHECKSUMS, MASKS_MEMBER, META_MEMBER, OCCUPANCY_MEMBER, WIDS_KIND, image_member, sample_key


class PackConfig(Frozen):
    """How samples are packed."""

    masks: str = Field("seeds", description="Mask generator whose store is packed (masks-<name>.zarr).")
    samples_per_shard: int = Field(64, ge=1, description="A shard is closed after the scene that reaches this count.")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of the packed images.")


def pack(dataset: DatasetSpec, work: Path, config: PackConfig, runtime: Runtime) -> StageSummary:
    """Writes `<work>/shards`.

    Raises:
        DataError: an input stage has not finished, or a split is empty.
        ConfigError: the folder was packed with another configuration or other inputs.
        StageError: a sample is broken.
    """
    if dataset.grid.frame != "ego":
        raise ConfigError(
            f"the grid of '{dataset.name}' is in the LiDAR frame, shards and training need the ego frame. Import its "
            "labels with `protoocc occupancy --source ... --labels DIR --resample` into a grid without `frame: lidar`."
        )
    entries = read_index(work / "records")
    stores = _stores(work, config)
    manifests = {name: read_manifest(path) for name, path in {"records": work / "records", **stores}.items()}
    dropped = {token: reason for manifest in manifests.values() for token, reason in manifest["dropped"].items()}
    units = _plan_shards(dataset, entries, dropped, config.samples_per_shard)
    stage = Stage(
        name="pack",
        folder=work / "shards",
        config={**config.model_dump(), **dataset.image_settings()},
        inputs={
            name: sha256_of([path / "manifest.json"]) for name, path in {"records": work / "records", **stores}.items()
        },
        units=units,
        work=partial(_pack_shard, dataset, work, config),
        create=lambda folder: folder.mkdir(parents=True),
        finish=partial(_finish, dataset, config, units, dropped),
    )
    return run_stage(stage, runtime)


def _stores(work: Path, config: PackConfig) -> dict[str, Path]:
    stores = {"geometry": work / "geometry.zarr", "occupancy": work / "occupancy.zarr"}
    masks = work / f"masks-{config.masks}.zarr"
    if not masks.exists():
        found = sorted(path.name for path in work.glob("masks-*.zarr"))
        raise ConfigError(
            f"{masks} does not exist (found: {', '.join(found) or 'no masks'}). "
            f"Run `protoocc masks --generator {config.masks}` or pass --masks."
        )
    return {**stores, "masks": masks}


def _plan_shards(
    dataset: DatasetSpec, entries: Sequence[RecordEntry], dropped: Mapping[str, str], samples_per_shard: int
) -> list[Unit]:
    """One unit per shard, called `<split>-<number>`: whole scenes of one split."""
    units: list[Unit] = []
    for split in dataset.splits:
        members = [entry for entry in entries if split in entry.splits and entry.token not in dropped]
        if not members:
            raise DataError(
                f"split '{split}' of '{dataset.name}' has no samples to pack; check `splits` in datasets.yaml"
            )
        shard: list[RecordEntry] = []
        number = 0
        for scene in scene_units(members):
            shard += scene.entries
            if len(shard) >= samples_per_shard or scene.entries[-1] is members[-1]:
                units.append(Unit(f"{split}-{number:05d}", len(shard), tuple(shard)))
                shard, number = [], number + 1
    return units


def _split_of(unit: Unit) -> str:
    return unit.name.rpartition("-")[0]


def _pack_shard(dataset: DatasetSpec, work: Path, config: PackConfig, unit: Unit) -> UnitReport:
    records = read_records(work / "records", unit.entries)
    arrays: dict[str, Any] = {}
    for kind, path in _stores(work, config).items():
        arrays.update(open_store(path, kind))
    buffer = io.BytesIO()
    samples: list[dict[str, Any]] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry, record in zip(unit.entries, records, strict=True):
            members = _members(dataset, record, entry.row, arrays, config.jpeg_quality)
            key = sample_key(record.scene, record.frame)
            places = {extension: _add(tar, f"{key}.{extension}", data) for extension, data in members.items()}
            samples.append(
                {"key": key, "token": record.token, "scene": record.scene, "frame": record.frame, "members": places}
            )
    data = buffer.getvalue()
    folder = work / "shards"
    write_bytes(folder / f"{unit.name}.tar", data)
    index: dict[str, Any] = {"shard": f"{unit.name}.tar", "split": _split_of(unit), "samples": samples}
    index |= {
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5sum": hashlib.md5(data).hexdigest(),
        "filesize": len(data),
    }
    write_json(folder / f"{unit.name}.index.json", index)
    return UnitReport(done=len(samples), counts={"bytes": float(len(data))})


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> list[int]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // 512) * 512
    return [tar.offset - padded, len(data)]


def _members(
    dataset: DatasetSpec, record: SampleRecord, row: int, arrays: Mapping[str, Any], jpeg_quality: int
) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for channel in dataset.cameras:
        image = resize_and_crop(
            read_image(dataset.root / record.cameras[channel].path, record.token), dataset.image_of(channel)
        )
        members[image_member(channel)] = _encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    segments = arrays["segment_id"][row]
    members[MASKS_MEMBER] = _encode(".png", segments.reshape(-1, segments.shape[-1]), [cv2.IMWRITE_PNG_COMPRESSION, 4])
    occupancy = io.BytesIO()
    np.savez_compressed(
        occupancy,
        semantics=arrays["semantics"][row],
        mask_lidar=arrays["mask_lidar"][row],
        mask_camera=arrays["mask_camera"][row],
    )
    members[OCCUPANCY_MEMBER] = occupancy.getvalue()
    meta = {
        "token": record.token,
        "scene": record.scene,
        "frame": record.frame,
        "timestamp_us": record.timestamp_us,
        "cameras": list(dataset.cameras),
        "segment_count": arrays["segment_count"][row].tolist(),
        **{name: arrays[name][row].tolist() for name in ("image_from_camera", "camera_from_ego", "global_from_ego")},
    }
    members[META_MEMBER] = json.dumps(meta, sort_keys=True).encode()
    return members


def _encode(suffix: str, image: np.ndarray, options: Sequence[int]) -> bytes:
    ok, data = cv2.imencode(suffix, image, options)
    if not ok:
        raise DataError(f"cannot encode a {suffix} of shape {image.shape}, dtype {image.dtype}")
    return bytes(data.tobytes())


def _finish(
    dataset: DatasetSpec, config: PackConfig, units: Sequence[Unit], dropped: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    shards = []
    for unit in units:
        index = json.loads((folder / f"{unit.name}.index.json").read_text())
        shards.append(
            {
                "url": index["shard"],
                "index": f"{unit.name}.index.json",
                "split": _split_of(unit),
                "nsamples": len(index["samples"]),
                "filesize": index["filesize"],
                "md5sum": index["md5sum"],
                "sha256": index["sha256"],
                "scenes": sorted({sample["scene"] for sample in index["samples"]}),
            }
        )
    write_bytes(folder / CHECKSUMS, "".join(f"{s['sha256']}  {s['url']}\n" for s in shards).encode())
    header = {
        "__kind__": WIDS_KIND,
        "wids_version": 1,
        "name": dataset.name,
        "masks": config.masks,
        "dataset": {
            "name": dataset.name,
            "cameras": list(dataset.cameras),
            "image_shape": list(dataset.image.shape),
            "grid": dataset.grid.model_dump(mode="json", exclude_defaults=True),
            "classes": dataset.classes.model_dump(mode="json"),
        },
        "left_out": dict(dropped),
        "shardlist": shards,
    }
    write_bytes(folder / "README.md", dataset_card(header).encode())
    return header
