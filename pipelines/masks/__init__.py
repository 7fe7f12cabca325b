"""Stage `masks`: class-free pseudo masks of every camera image, by superpixels or Segment Anything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt16

from pipelines.images import read_image
from pipelines.masks.config import Sam2Config, SamConfig, SeedsConfig, SlicConfig
from pipelines.masks.generator import GeneratorKind, MaskGenerator
from pipelines.masks.label_map import cover_gaps, to_network_image
from pipelines.masks.sam import SAM
from pipelines.masks.sam2 import SAM2
from pipelines.masks.seeds import SEEDS
from pipelines.masks.slic import SLIC
from pipelines.stage import OnError, Origin, Runtime, Stage, StageSummary, Unit, UnitReport, run_stage, units_of
from pipelines.zarr_io import create_store, store_layout, write_record
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord, read_index, read_records
from schemas.settings import Frozen, set_options
from schemas.workfolder import WorkFolder

__all__ = [
    "GENERATORS",
    "Sam2Config",
    "SamConfig",
    "SeedsConfig",
    "SlicConfig",
    "generator_name",
    "make_masks",
    "masks_stage",
]

GENERATORS: Final[Mapping[str, GeneratorKind]] = {"seeds": SEEDS, "slic": SLIC, "sam": SAM, "sam2": SAM2}
"""Name of a generator (`--generator`, ``masks-<name>.zarr``) -> what the stage knows of it."""


def generator_name(config: Frozen) -> str:
    """The generator that settings are for."""
    return next(name for name, kind in GENERATORS.items() if type(config) is kind.config)


def make_masks(dataset: DatasetSpec, work: Path, config: Frozen, runtime: Runtime) -> StageSummary:
    """Writes one label map per image of every keyframe that is in a split (array `segment_id`).

    Segments are made on the whole image, before the crop, so their ids and `segment_count` are those of the whole
    image. Rows of keyframes outside all splits keep the fill value; the manifest's `outside_splits` counts them.

    Args:
        dataset: the entry of `datasets.yaml`.
        work: work folder with finished `records`.
        config: settings of one of `GENERATORS`.
        runtime: where to run and what to do with bad samples.

    Returns:
        Figures; `counts.segments` is the number of segments over all images, `counts.one_segment` that of images
        which are one segment, because no mask was found in them or one covers them.

    Raises:
        DataError: `prepare` has not finished.
        SetupError: OpenCV lacks ximgproc, or the device is missing.
        CheckpointError: a network's weights are missing or others than those asked for.
        StageError: an image is missing or truncated (names it), or every sample was dropped.
    """
    stage = masks_stage(dataset, WorkFolder(work), config, runtime.on_error)
    scheduler = GENERATORS[generator_name(config)].schedule(runtime.scheduler, config)
    return run_stage(stage, replace(runtime, scheduler=scheduler))


def masks_stage(dataset: DatasetSpec, work: WorkFolder, config: Frozen, on_error: OnError) -> Stage:
    """The stage that writes ``work/masks-<generator>.zarr``; raises as `make_masks` does before its first unit."""
    entries = read_index(work.records)
    name = generator_name(config)
    height, width = dataset.image.shape
    sizes = {"N": len(entries), "V": len(dataset.cameras), "H": height, "W": width}
    settings = config.model_dump(mode="json", exclude={"checkpoint", "sha256"})
    return Stage(
        name=f"masks-{name}",
        folder=work.masks(name),
        config={"generator": name, "settings": settings},
        inputs=GENERATORS[name].needs(config),
        units=units_of(entries, GENERATORS[name].unit_size),
        work=partial(segment_unit, dataset, work, config, on_error),
        create=partial(create_store, kind="masks", sizes=sizes),
        layout=store_layout("masks"),
        origin=Origin(
            dataset,
            fields=("cameras", "image", "camera_images"),
            stores={"records": work.records},
            command=_command(dataset, config),
        ),
    )


def _command(dataset: DatasetSpec, config: Frozen) -> str:
    """The command that makes these masks: what differs from the defaults is set."""
    words = ["protoocc", "masks", "--generator", generator_name(config), *set_options(config)]
    return shlex.join([*words, "--dataset", dataset.name])


def segment_unit(
    dataset: DatasetSpec,
    work: WorkFolder,
    config: Frozen,
    on_error: OnError,
    store: Path,
    unit: Unit,
) -> UnitReport:
    """Writes the rows of one unit to a store.

    Raises:
        DataError: an image is missing or truncated and ``on_error`` is `fail`.
    """
    records = read_records(work.records, unit.entries)
    generators = generators_of(dataset, config)
    dropped: dict[str, str] = {}
    counts = {"images": 0.0, "segments": 0.0, "one_segment": 0.0, "uncovered": 0.0, "outside_splits": 0.0}
    done = 0
    for entry, record in zip(unit.entries, records, strict=True):
        if not record.splits:
            counts["outside_splits"] += 1
            continue
        try:
            arrays, uncovered = segment_record(dataset, record, generators)
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[record.token] = str(error)
            continue
        write_record(store, entry.row, arrays)
        done += 1
        counts["images"] += len(dataset.cameras)
        counts["segments"] += float(arrays["segment_count"].sum())
        counts["uncovered"] += uncovered
        counts["one_segment"] += float((arrays["segment_count"] == 1).sum())
    images = (
        dataset.root / record.cameras[name].path for record in records if record.splits for name in dataset.cameras
    )
    return UnitReport(done=done, dropped=dropped, counts=counts, read=tuple(images))


def generators_of(dataset: DatasetSpec, config: Frozen) -> dict[MaskGenerator, list[str]]:
    """Generators with their cameras: those whose images become the same size share one."""
    cameras: dict[tuple[int, int] | None, list[str]] = {}
    for channel in dataset.cameras:
        cameras.setdefault(dataset.image_of(channel).resize, []).append(channel)
    build = GENERATORS[generator_name(config)].build
    return {build(config, size): channels for size, channels in cameras.items()}


def segment_record(
    dataset: DatasetSpec, record: SampleRecord, generators: Mapping[MaskGenerator, list[str]]
) -> tuple[dict[str, UInt16[np.ndarray, "..."]], float]:  # noqa: UP037  jaxtyping takes the string
    """Segments of all camera images of one keyframe.

    Args:
        dataset: root, cameras, resize and crop.
        record: the keyframe.
        generators: generators with their cameras.

    Returns:
        `segment_id` (V, H, W) and `segment_count` (V); sum over the images of the share, 0..1, that no mask covered.

    Raises:
        DataError: an image is missing or cannot be decoded.
    """
    ids: dict[str, UInt16[np.ndarray, "H W"]] = {}
    totals: dict[str, int] = {}
    uncovered = 0.0
    for generator, channels in generators.items():
        images = [read_image(dataset.root / record.cameras[channel].path, record.token) for channel in channels]
        for channel, image, found in zip(channels, images, generator.generate(images), strict=True):
            labels = cover_gaps(found)
            uncovered += 0.0 if labels is found else float((found < 0).mean())
            ids[channel] = to_network_image(labels, dataset.image_of(channel), (image.shape[1], image.shape[0]))
            totals[channel] = int(labels.max()) + 1
    arrays = {
        "segment_id": np.stack([ids[channel] for channel in dataset.cameras]),
        "segment_count": np.array([totals[channel] for channel in dataset.cameras], dtype=np.uint16),
    }
    return arrays, uncovered
