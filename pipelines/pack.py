"""Stage `pack`: records, geometry, labels and masks become WebDataset shards with an index, checksums and a card.

A shard holds whole scenes of one split in order of time. `manifest.json` is a valid wids-shard-index-v1 with further
keys; `schemas.shards` defines it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipelines.files import write_bytes
from pipelines.images import read_image, resize_and_crop
from pipelines.shard_card import CARD, dataset_card
from pipelines.shard_file import shard_entry, write_shard
from pipelines.stage import (
    Runtime,
    Stage,
    StageSummary,
    Unit,
    UnitReport,
    fingerprint,
    read_manifest,
    run_stage,
    scene_units,
)
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.records import RecordEntry, SampleRecord, read_index, read_records
from schemas.settings import Frozen
from schemas.shards import (
    CHECKSUMS,
    MASKS_MEMBER,
    META_MEMBER,
    OCCUPANCY_MEMBER,
    WIDS_KIND,
    DatasetInfo,
    Manifest,
    image_member,
)
from schemas.workfolder import WorkFolder


class PackConfig(Frozen):
    """How samples are packed."""

    masks: str = Field("seeds", description="Mask generator whose store is packed (masks-<name>.zarr).")
    samples_per_shard: int = Field(64, ge=1, description="A shard is closed after the scene that reaches this count.")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of the packed images.")


def pack(dataset: DatasetSpec, work: Path, config: PackConfig, runtime: Runtime) -> StageSummary:
    """Writes `<work>/shards`.

    Raises:
        DataError: an input stage has not finished, or a split is empty.
        ConfigError: the folder was packed with another configuration or other inputs, or the grid is not the ego's.
        StageError: a sample is broken.
    """
    return run_stage(pack_stage(dataset, WorkFolder(work), config), runtime)


def pack_stage(dataset: DatasetSpec, work: WorkFolder, config: PackConfig) -> Stage:
    """The stage that writes `<work>/shards`, with one unit per shard.

    Raises:
        DataError: an input stage has not finished, or a split is empty.
        ConfigError: there are no masks of this generator, or the grid is not in the ego frame.
    """
    if dataset.grid.frame != "ego":
        raise ConfigError(
            f"the grid of '{dataset.name}' is in the LiDAR frame, shards and training need the ego frame. Import its "
            "labels with `protoocc occupancy --source ... --labels DIR --resample` into a grid without `frame: lidar`."
        )
    entries = read_index(work.records)
    inputs = {"records": work.records, **_stores(work, config)}
    dropped = {token: why for folder in inputs.values() for token, why in read_manifest(folder).dropped.items()}
    units = _plan_shards(dataset, entries, dropped, config.samples_per_shard)
    return Stage(
        name="pack",
        folder=work.shards,
        config={**config.model_dump(), **dataset.image_settings()},
        inputs={name: fingerprint(folder) for name, folder in inputs.items()},
        units=units,
        work=partial(_pack_shard, dataset, work, config),
        create=lambda folder: folder.mkdir(parents=True),
        finish=partial(_finish, dataset, config, [unit.name for unit in units], dropped),
    )


def _stores(work: WorkFolder, config: PackConfig) -> dict[str, Path]:
    masks = work.masks(config.masks)
    if not masks.exists():
        found = ", ".join(work.masks(name).name for name in work.generators())
        raise ConfigError(
            f"{masks} does not exist (found: {found or 'no masks'}). "
            f"Run `protoocc masks --generator {config.masks}` or pass --masks."
        )
    return {"geometry": work.geometry, "occupancy": work.occupancy, "masks": masks}


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


def split_of(unit: Unit) -> str:
    """Split of the unit of a shard."""
    return unit.name.rpartition("-")[0]


def _pack_shard(dataset: DatasetSpec, work: WorkFolder, config: PackConfig, unit: Unit) -> UnitReport:
    arrays: dict[str, Any] = {}
    for kind, path in _stores(work, config).items():
        arrays.update(open_store(path, kind))
    records = read_records(work.records, unit.entries)
    samples = (
        (record, _members(dataset, record, entry.row, arrays, config.jpeg_quality))
        for entry, record in zip(unit.entries, records, strict=True)
    )
    index = write_shard(work.shards, unit.name, split_of(unit), samples)
    return UnitReport(done=len(index.samples), counts={"bytes": float(index.filesize)})


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
    dataset: DatasetSpec, config: PackConfig, names: Sequence[str], dropped: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    manifest = Manifest(
        name=dataset.name,
        dataset=DatasetInfo(
            name=dataset.name,
            cameras=dataset.cameras,
            image_shape=dataset.image.shape,
            grid=dataset.grid,
            classes=dataset.classes,
        ),
        masks=config.masks,
        left_out=dict(dropped),
        shardlist=tuple(shard_entry(folder, name) for name in names),
    )
    sums = "".join(f"{shard.sha256}  {shard.url}\n" for shard in manifest.shardlist)
    write_bytes(folder / CHECKSUMS, sums.encode())
    write_bytes(folder / CARD, dataset_card(manifest).encode())
    return {"__kind__": WIDS_KIND, "wids_version": 1, **manifest.model_dump(mode="json")}
