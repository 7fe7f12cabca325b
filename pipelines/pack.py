"""Stage `pack`: records, geometry, labels and masks become WebDataset shards with an index, checksums and a card.

A shard holds whole scenes of one split in order of time. `manifest.json` is a valid wids-shard-index-v1 with further
keys; `schemas.shards` defines it.
"""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from pipelines.depth_maps import depth_map_member, map_paths
from pipelines.images import camera_files, camera_members
from pipelines.label_counts import useless_counts
from pipelines.lidar_depth import lidar_depth_member, lidar_paths
from pipelines.points import require_lidar
from pipelines.shard_card import dataset_card
from pipelines.shard_croissant import croissant
from pipelines.shard_file import (
    DALI_INDEX,
    SHARD_INDEX,
    TAR,
    files_of_shard,
    finish_shards,
    make_manifest,
    split_of,
    write_shard,
)
from pipelines.stage import (
    Layout,
    Origin,
    Runtime,
    Stage,
    StageSummary,
    Unit,
    UnitReport,
    read_manifest,
    run_stage,
    scene_units,
)
from pipelines.zarr_io import StoreRows
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.network_images import encode_image
from schemas.records import RecordEntry, SampleRecord, read_index, read_records
from schemas.settings import Frozen
from schemas.shards import (
    CARD,
    CHECKSUMS,
    CROISSANT,
    DEPTH_MEMBER,
    IMAGES_KEY,
    INPUT_DEPTH_MEMBER,
    MASKS_MEMBER,
    META_MEMBER,
    OCCUPANCY_MEMBER,
    SHARD_FORMAT,
    ImageFiles,
    sample_members,
)
from schemas.workfolder import WorkFolder


class PackConfig(Frozen):
    """How samples are packed."""

    masks: str = Field("seeds", description="Mask generator whose store is packed (masks-<name>.zarr).")
    samples_per_shard: int = Field(64, ge=1, description="A shard is closed after the scene that reaches this count.")
    depth: bool = Field(
        False, description="Pack the points of the keyframe's LiDAR sweep in each image, with their depth."
    )
    depth_maps: str | None = Field(
        None, description="Folder of depth maps of the user's, at the paths of the camera files; null: none."
    )
    images: bool = Field(
        True, description="Pack the images; without them samples name the camera files, which readers join."
    )
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
    stores = {"records": work.records, **_stores(work, config)}
    dropped = {token: why for folder in stores.values() for token, why in read_manifest(folder).dropped.items()}
    units = _plan_shards(dataset, entries, dropped, config.samples_per_shard)
    joined = (CHECKSUMS, CARD, CROISSANT)
    options = ["--masks", config.masks, "--samples-per-shard", str(config.samples_per_shard)]
    if config.depth:
        require_lidar(dataset, "--depth")
        options.append("--depth")
    if not config.images:
        options.append("--no-images")
    if config.depth_maps is not None:
        options += ["--depth-maps", config.depth_maps]
    defaults = {
        name
        for name in ("depth", "depth_maps", "images")
        if getattr(config, name) == PackConfig.model_fields[name].default
    }
    return Stage(
        name="pack",
        folder=work.shards,
        config={**config.model_dump(exclude=defaults), "shard_format": SHARD_FORMAT},
        inputs={},
        units=units,
        work=partial(_pack_shard, dataset, work, config),
        create=lambda folder: folder.mkdir(parents=True),
        finish=partial(_finish, dataset, config, [unit.name for unit in units], dropped),
        layout=Layout((TAR, SHARD_INDEX, DALI_INDEX, *joined), files_of_shard, joined=joined),
        origin=Origin(
            dataset,
            fields=(
                *("name", "cameras", "image", "camera_images", "grid", "classes", "splits"),
                *(("categories",) if config.depth else ()),
                *(name for name in ("licence", "attribution") if getattr(dataset, name) is not None),
            ),
            stores=stores,
            command=shlex.join(["protoocc", "pack", *options, "--dataset", dataset.name]),
        ),
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


def _pack_shard(dataset: DatasetSpec, work: WorkFolder, config: PackConfig, shards: Path, unit: Unit) -> UnitReport:
    stores = [StoreRows(path, kind) for kind, path in _stores(work, config).items()]
    records = read_records(work.records, unit.entries)
    useless: Counter[str] = Counter()
    maps = None if config.depth_maps is None else Path(config.depth_maps)
    order = sample_members(
        dataset.cameras, masks=True, depth=config.depth, depth_maps=maps is not None, images=config.images
    )

    def samples() -> Iterator[tuple[SampleRecord, dict[str, bytes]]]:
        for entry, record in zip(unit.entries, records, strict=True):
            arrays = {name: array for store in stores for name, array in store.read(entry.row, entry.token).items()}
            useless.update(useless_counts(arrays["semantics"], arrays["mask_camera"], dataset.classes.ignored))
            members = _members(dataset, record, arrays, config)
            if config.depth:
                members[DEPTH_MEMBER] = lidar_depth_member(dataset, record, arrays)
            if maps is not None:
                members[INPUT_DEPTH_MEMBER] = depth_map_member(maps, dataset, record)
            yield record, {name: members[name] for name in order}

    index = write_shard(shards, unit.name, split_of(unit), samples())
    images = [dataset.root / record.cameras[name].path for record in records for name in dataset.cameras]
    points = [path for record in records for path in lidar_paths(dataset, record)] if config.depth else []
    points += [path for record in records for path in map_paths(maps, dataset, record)] if maps is not None else []
    counts = {"bytes": float(index.filesize), **{name: float(count) for name, count in useless.items()}}
    return UnitReport(done=len(index.samples), counts=counts, read=(*images, *points))


def _members(
    dataset: DatasetSpec, record: SampleRecord, arrays: Mapping[str, np.ndarray], config: PackConfig
) -> dict[str, bytes]:
    members = camera_members(dataset, record, config.jpeg_quality) if config.images else {}
    segments = arrays["segment_id"].reshape(-1, arrays["segment_id"].shape[-1])
    members[MASKS_MEMBER] = encode_image(".png", segments, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    occupancy = io.BytesIO()
    np.savez_compressed(
        occupancy,
        semantics=arrays["semantics"],
        mask_lidar=arrays["mask_lidar"],
        mask_camera=arrays["mask_camera"],
    )
    members[OCCUPANCY_MEMBER] = occupancy.getvalue()
    meta = {
        "token": record.token,
        "scene": record.scene,
        "frame": record.frame,
        "timestamp_us": record.timestamp_us,
        "cameras": list(dataset.cameras),
        "segment_count": arrays["segment_count"].tolist(),
        **{name: arrays[name].tolist() for name in ("image_from_camera", "camera_from_ego", "global_from_ego")},
    }
    if record.lidar is not None:
        meta["ego_from_lidar"] = record.lidar.ego_from_lidar.matrix.tolist()
    if not config.images:
        meta[IMAGES_KEY] = {name: file.model_dump() for name, file in camera_files(dataset, record).items()}
    members[META_MEMBER] = json.dumps(meta, sort_keys=True).encode()
    return members


def _finish(
    dataset: DatasetSpec, config: PackConfig, names: Sequence[str], dropped: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    specs = {channel: dataset.image_of(channel) for channel in dataset.cameras}
    files = None if config.images else ImageFiles(specs=specs, jpeg_quality=config.jpeg_quality)
    manifest = make_manifest(
        dataset,
        folder,
        names,
        masks=config.masks,
        depth=config.depth,
        depth_maps=config.depth_maps is not None,
        left_out=dict(dropped),
        image_files=files,
    )
    return finish_shards(folder, manifest, {CARD: dataset_card(manifest), CROISSANT: croissant(manifest)})
