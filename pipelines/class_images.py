"""Stage `class-images`: the class of each camera pixel, by a segmentation network of the user's.

`protoocc occupancy --image-labels class-images` reads them: they name points of data without point labels, and free
voxels that the cameras look through.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import cv2

from pipelines.class_model import ClassModelConfig, check_class_model, class_segmenter
from pipelines.files import sha256_of
from pipelines.images import read_image
from pipelines.stage import Layout, OnError, Origin, Piece, Runtime, Stage, StageSummary, Unit, UnitReport, run_stage
from pipelines.units import units_of
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.files import write_bytes
from schemas.names import folder_of
from schemas.network_images import encode_image
from schemas.records import RecordEntry, SampleRecord, read_index, read_records
from schemas.settings import set_options
from schemas.workfolder import WorkFolder

_AT_ONCE = 16
"""Keyframes per task."""


def make_class_images(dataset: DatasetSpec, work: Path, config: ClassModelConfig, runtime: Runtime) -> StageSummary:
    """Writes `<work>/class-images/<scene>/<sample token>/<camera>.png` of every keyframe.

    Images are 8-bit PNGs of the network's own size and hold classes of the dataset's table; where the network tells
    none, the ignored one.

    Args:
        dataset: the entry of `datasets.yaml`.
        work: work folder with finished `records`.
        config: the network.
        runtime: where to run and what to do with bad samples.

    Raises:
        CheckpointError: the file holds no such network, or tells another class than its list has.
        ConfigError: a class is not the dataset's, or the folder was made with another configuration.
        DataError: `prepare` has not finished.
        SetupError: onnxruntime is not installed.
        StageError: an image is missing or truncated (names it), or every sample was dropped.
    """
    return run_stage(_stage(dataset, WorkFolder(work), config, runtime.on_error), runtime)


def _stage(dataset: DatasetSpec, work: WorkFolder, config: ClassModelConfig, on_error: OnError) -> Stage:
    check_class_model(config, dataset.classes)
    options = ["--model", str(config.model), *set_options(config, without=["model"])]
    command = ["protoocc", "masks", "--generator", "classes", *options, "--dataset", dataset.name]
    return Stage(
        name="class-images",
        folder=work.class_images,
        config=config.model_dump(mode="json", exclude={"model"}),
        inputs={"model": sha256_of([config.model])},
        units=units_of(read_index(work.records), _AT_ONCE),
        work=partial(_write_unit, dataset, work, config, on_error),
        create=lambda folder: folder.mkdir(parents=True),
        layout=Layout(("*.png",), partial(_pieces, dataset.cameras)),
        origin=Origin(
            dataset,
            fields=("cameras", "classes"),
            stores={"records": work.records},
            command=shlex.join(command),
        ),
    )


def _pieces(cameras: tuple[str, ...], unit: Unit) -> list[Piece]:
    return [Piece(e.token, tuple(_name(e, channel) for channel in cameras)) for e in unit.entries]


def _name(entry: RecordEntry | SampleRecord, channel: str) -> str:
    return f"{folder_of(entry.scene)}/{entry.token}/{channel}.png"


def _write_unit(
    dataset: DatasetSpec, work: WorkFolder, config: ClassModelConfig, on_error: OnError, folder: Path, unit: Unit
) -> UnitReport:
    segment = class_segmenter(config, dataset.classes)
    dropped: dict[str, str] = {}
    counts = {"pixels": 0.0, "named_pixels": 0.0}
    records = read_records(work.records, unit.entries)
    for record in records:
        try:
            images = [read_image(dataset.root / record.cameras[name].path, record.token) for name in dataset.cameras]
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[record.token] = str(error)
            continue
        for channel, image in zip(dataset.cameras, images, strict=True):
            classes = segment(image)
            counts["pixels"] += classes.size
            counts["named_pixels"] += float((classes != dataset.classes.ignored).sum())
            data = encode_image(".png", classes, [cv2.IMWRITE_PNG_COMPRESSION, 6])
            write_bytes(folder / _name(record, channel), data)
    read = tuple(dataset.root / record.cameras[name].path for record in records for name in dataset.cameras)
    return UnitReport(done=len(records) - len(dropped), dropped=dropped, counts=counts, read=read)
