"""Stage `masks`: class-free pseudo masks of every camera image, by SEEDS or Segment Anything."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8, UInt16

from pipelines.files import sha256_of
from pipelines.images import read_image
from pipelines.masks.config import SamConfig, SeedsConfig
from pipelines.masks.label_map import to_network_image
from pipelines.masks.sam import sam_segmenter
from pipelines.masks.sam_checkpoint import find_checkpoint
from pipelines.masks.sam_workers import sam_scheduler
from pipelines.masks.seeds import require_ximgproc, seeds_segmenter
from pipelines.stage import OnError, Origin, Runtime, Stage, StageSummary, Unit, UnitReport, run_stage, units_of
from pipelines.zarr_io import create_store, store_layout, write_record
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord, read_index, read_records
from schemas.workfolder import WorkFolder

__all__ = ["SamConfig", "SeedsConfig", "make_masks", "masks_stage"]

UNIT_SIZE = {"seeds": 32, "sam": 4}
"""Keyframes per task: a few seconds with SEEDS, some minutes with Segment Anything on a GPU."""

Segmenter = Callable[[UInt8[np.ndarray, "h w 3"]], Int32[np.ndarray, "H W"]]


def generator_name(generator: SeedsConfig | SamConfig) -> str:
    """`seeds` or `sam`."""
    return "seeds" if isinstance(generator, SeedsConfig) else "sam"


def make_masks(dataset: DatasetSpec, work: Path, generator: SeedsConfig | SamConfig, runtime: Runtime) -> StageSummary:
    """Writes one label map per image of every keyframe that is in a split (array `segment_id`).

    Segments are made on the whole image, before the crop, so their ids and `segment_count` are those of the whole
    image. Rows of keyframes outside all splits keep the fill value; the manifest's `outside_splits` counts them.

    Args:
        dataset: the entry of `datasets.yaml`.
        work: work folder with finished `records`.
        generator: which generator, with its settings.
        runtime: where to run and what to do with bad samples.

    Returns:
        Figures; `counts.segments` is the number of segments over all images.

    Raises:
        DataError: `prepare` has not finished.
        SetupError: OpenCV lacks ximgproc, or the device is missing.
        CheckpointError: Segment Anything's weights are missing or of another size.
        StageError: an image is missing or truncated (names it), or every sample was dropped.
    """
    stage = masks_stage(dataset, WorkFolder(work), generator, runtime.on_error)
    if isinstance(generator, SamConfig):
        runtime = replace(runtime, scheduler=sam_scheduler(runtime.scheduler, generator))
    return run_stage(stage, runtime)


def masks_stage(dataset: DatasetSpec, work: WorkFolder, generator: SeedsConfig | SamConfig, on_error: OnError) -> Stage:
    """The stage that writes ``work/masks-<generator>.zarr``; raises as `make_masks` does before its first unit."""
    entries = read_index(work.records)
    name = generator_name(generator)
    height, width = dataset.image.shape
    sizes = {"N": len(entries), "V": len(dataset.cameras), "H": height, "W": width}
    settings = generator.model_dump(mode="json", exclude={"checkpoint"})
    return Stage(
        name=f"masks-{name}",
        folder=work.masks(name),
        config={"generator": name, "settings": settings},
        inputs=_needs(generator),
        units=units_of(entries, UNIT_SIZE[name]),
        work=partial(segment_unit, dataset, work, generator, on_error),
        create=partial(create_store, kind="masks", sizes=sizes),
        layout=store_layout("masks"),
        origin=Origin(
            dataset,
            fields=("cameras", "image", "camera_images"),
            stores={"records": work.records},
            command=_command(dataset, generator),
        ),
    )


def _command(dataset: DatasetSpec, generator: SeedsConfig | SamConfig) -> str:
    options = ["--generator", generator_name(generator)]
    if isinstance(generator, SeedsConfig):
        options += ["--segments", str(generator.segments)]
    else:
        options += ["--checkpoint", str(generator.checkpoint), "--device", generator.device]
        options += ["--model-type", generator.model_type] if generator.model_type else []
    return shlex.join(["protoocc", "masks", *options, "--dataset", dataset.name])


def _needs(generator: SeedsConfig | SamConfig) -> dict[str, str]:
    """Checks what the generator needs, before anything is written; returns the fingerprint of its weights."""
    if isinstance(generator, SeedsConfig):
        require_ximgproc()
        return {}
    return {"checkpoint": sha256_of([find_checkpoint(generator)])}


def segment_unit(
    dataset: DatasetSpec,
    work: WorkFolder,
    generator: SeedsConfig | SamConfig,
    on_error: OnError,
    store: Path,
    unit: Unit,
) -> UnitReport:
    """Writes the rows of one unit to a store.

    Raises:
        DataError: an image is missing or truncated and ``on_error`` is `fail`.
    """
    records = read_records(work.records, unit.entries)
    segmenters = segmenters_of(dataset, generator)
    dropped: dict[str, str] = {}
    counts = {"images": 0.0, "segments": 0.0, "outside_splits": 0.0}
    done = 0
    for entry, record in zip(unit.entries, records, strict=True):
        if not record.splits:
            counts["outside_splits"] += 1
            continue
        try:
            arrays = segment_record(dataset, record, segmenters)
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[record.token] = str(error)
            continue
        write_record(store, entry.row, arrays)
        done += 1
        counts["images"] += len(dataset.cameras)
        counts["segments"] += float(arrays["segment_count"].sum())
    images = (
        dataset.root / record.cameras[name].path for record in records if record.splits for name in dataset.cameras
    )
    return UnitReport(done=done, dropped=dropped, counts=counts, read=tuple(images))


def segmenters_of(dataset: DatasetSpec, generator: SeedsConfig | SamConfig) -> Mapping[str, Segmenter]:
    """Segmenter of each camera; with Segment Anything masks are made at the scale of the camera's network image."""
    if isinstance(generator, SeedsConfig):
        return dict.fromkeys(dataset.cameras, seeds_segmenter(generator))
    size_of = {channel: dataset.image_of(channel).resize for channel in dataset.cameras}
    segmenters = {size: sam_segmenter(generator, size) for size in set(size_of.values())}
    return {channel: segmenters[size] for channel, size in size_of.items()}


def segment_record(
    dataset: DatasetSpec, record: SampleRecord, segmenters: Mapping[str, Segmenter]
) -> dict[str, UInt16[np.ndarray, "..."]]:  # noqa: UP037  jaxtyping takes the string
    """Segments of all camera images of one keyframe.

    Args:
        dataset: root, cameras, resize and crop.
        record: the keyframe.
        segmenters: image -> label map of the whole image, by camera.

    Returns:
        `segment_id` (V, H, W) and `segment_count` (V).

    Raises:
        DataError: an image is missing or cannot be decoded.
    """
    ids: list[Any] = []
    totals: list[int] = []
    for channel in dataset.cameras:
        image = read_image(dataset.root / record.cameras[channel].path, record.token)
        labels = segmenters[channel](image)
        ids.append(to_network_image(labels, dataset.image_of(channel), (image.shape[1], image.shape[0])))
        totals.append(int(labels.max()) + 1)
    return {"segment_id": np.stack(ids), "segment_count": np.array(totals, dtype=np.uint16)}
