"""Stage `pixels`: network images with a class and a depth for their pixels, to train image features on.

A generated world knows both exactly (`protoocc synth --depth`). Elsewhere points of the keyframe's LiDAR sweep give the
depth of the pixels that they land in, and their classes where the points are labelled. The files are shards as `pack`
writes them, one for each scene, with other members (`schemas.shards.PIXEL_MEMBERS`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from pydantic import Field

from pipelines.images import camera_members, take_and_crop
from pipelines.lidar_depth import keyframe_pixels, lidar_paths
from pipelines.pixel_truth import read_truth, truth_paths
from pipelines.points import require_lidar
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
from schemas.errors import DataError
from schemas.network_images import encode_image
from schemas.pixels import encode_depth
from schemas.records import SampleRecord, read_index, read_records
from schemas.settings import Frozen
from schemas.shards import CHECKSUMS, CLASSES_MEMBER, DEPTH_IMAGE_MEMBER, SHARD_FORMAT
from schemas.workfolder import WorkFolder

_SMALL_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 9)


class PixelsConfig(Frozen):
    """How image targets are made."""

    source: Literal["truth", "lidar"] = Field(
        "truth",
        description="truth: exact classes and depth of a generated world; lidar: points of the keyframe's sweep.",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the images.")


def make_pixels(dataset: DatasetSpec, work: Path, config: PixelsConfig, runtime: Runtime) -> StageSummary:
    """Writes `<work>/pixels`.

    Raises:
        DataError: `prepare` has not finished, a split is empty, or an image or target is missing.
        ConfigError: the folder was made with another configuration, or the source is not there.
        StageError: a sample is broken.
    """
    return run_stage(pixels_stage(dataset, WorkFolder(work), config), runtime)


def pixels_stage(dataset: DatasetSpec, work: WorkFolder, config: PixelsConfig) -> Stage:
    """The stage that writes `<work>/pixels`, a unit for each scene of a split; raises as `make_pixels` at its start."""
    if config.source == "lidar":
        require_lidar(dataset, "--source lidar")
    units = _plan(dataset, work)
    return Stage(
        name="pixels",
        folder=work.pixels,
        config={**config.model_dump(), "shard_format": SHARD_FORMAT},
        inputs={},
        units=units,
        work=partial(_write_unit, dataset, work, config),
        create=lambda folder: folder.mkdir(parents=True),
        finish=partial(_finish, dataset, config, [unit.name for unit in units]),
        layout=Layout((TAR, SHARD_INDEX, DALI_INDEX, CHECKSUMS), files_of_shard, joined=(CHECKSUMS,)),
        origin=Origin(
            dataset,
            fields=("name", "cameras", "image", "camera_images", "classes", "categories", "splits"),
            stores={"records": work.records, "geometry": work.geometry},
            command=shlex.join(
                ["protoocc", "pretrain", "targets", "--source", config.source, "--dataset", dataset.name]
            ),
        ),
    )


def _plan(dataset: DatasetSpec, work: WorkFolder) -> list[Unit]:
    entries = read_index(work.records)
    dropped = read_manifest(work.records).dropped
    units: list[Unit] = []
    for split in dataset.splits:
        members = [entry for entry in entries if split in entry.splits and entry.token not in dropped]
        if not members:
            raise DataError(f"split '{split}' of '{dataset.name}' has no samples; check `splits` in datasets.yaml")
        for number, scene in enumerate(scene_units(members)):
            units.append(Unit(f"{split}-{number:05d}", scene.size, scene.entries))
    return units


def _write_unit(dataset: DatasetSpec, work: WorkFolder, config: PixelsConfig, folder: Path, unit: Unit) -> UnitReport:
    records = read_records(work.records, unit.entries)
    geometry = StoreRows(work.geometry, "geometry")

    def samples() -> Iterator[tuple[SampleRecord, dict[str, bytes]]]:
        for entry, record in zip(unit.entries, records, strict=True):
            if config.source == "truth":
                targets = _truth_targets(dataset, record)
            else:
                targets = _lidar_targets(dataset, record, geometry.read(entry.row, entry.token))
            yield record, {**camera_members(dataset, record, config.jpeg_quality), **targets}

    index = write_shard(folder, unit.name, split_of(unit), samples())
    paths_of = truth_paths if config.source == "truth" else lidar_paths
    read = [dataset.root / record.cameras[name].path for record in records for name in dataset.cameras]
    read += [path for record in records for path in paths_of(dataset, record)]
    return UnitReport(done=len(index.samples), counts={"bytes": float(index.filesize)}, read=tuple(read))


def _truth_targets(dataset: DatasetSpec, record: SampleRecord) -> dict[str, bytes]:
    """Classes and depth of all pixels of a generated world."""
    classes: list[UInt8[np.ndarray, "H W"]] = []
    depths: list[UInt16[np.ndarray, "H W"]] = []
    for channel in dataset.cameras:
        labels, depth = read_truth(dataset, record, channel)
        classes.append(take_and_crop(labels, dataset.image_of(channel)))
        depths.append(take_and_crop(depth, dataset.image_of(channel)))
    return _encode_targets(classes, depths)


def _lidar_targets(dataset: DatasetSpec, record: SampleRecord, geometry: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Classes and depth of the pixels in which points of the LiDAR land."""
    classes: list[UInt8[np.ndarray, "H W"]] = []
    depths: list[UInt16[np.ndarray, "H W"]] = []
    for points in keyframe_pixels(dataset, record, geometry):
        label = np.full(dataset.image.shape, dataset.classes.ignored, np.uint8)
        depth = np.zeros(dataset.image.shape, np.uint16)
        label[points.row, points.column] = points.label
        depth[points.row, points.column] = encode_depth(points.depth_m)
        classes.append(label)
        depths.append(depth)
    return _encode_targets(classes, depths)


def _encode_targets(
    classes: Sequence[UInt8[np.ndarray, "H W"]], depths: Sequence[UInt16[np.ndarray, "H W"]]
) -> dict[str, bytes]:
    return {
        CLASSES_MEMBER: encode_image(".png", np.concatenate(classes), _SMALL_PNG),
        DEPTH_IMAGE_MEMBER: encode_image(".png", np.concatenate(depths), _SMALL_PNG),
    }


def _finish(dataset: DatasetSpec, config: PixelsConfig, names: Sequence[str], folder: Path) -> dict[str, Any]:
    return finish_shards(folder, make_manifest(dataset, folder, names, masks=None, pixels=config.source), {})
