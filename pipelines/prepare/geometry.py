"""Stage `geometry`: camera matrices of the network's images as arrays, one row per record."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pipelines.stage import Origin, Stage, Unit, UnitReport, units_of
from pipelines.zarr_io import create_store, store_layout, write_records
from schemas.datasets import DatasetSpec
from schemas.images import ImageSpec
from schemas.records import CameraRecord, SampleRecord, each_record, read_index
from schemas.store import GEOMETRY_CHUNK
from schemas.workfolder import WorkFolder


def geometry_stage(dataset: DatasetSpec, work: Path) -> Stage:
    """The stage that writes ``work/geometry.zarr`` from ``work/records``."""
    folders = WorkFolder(work)
    entries = read_index(folders.records)
    sizes = {"N": len(entries), "V": len(dataset.cameras)}
    return Stage(
        name="geometry",
        folder=folders.geometry,
        config={},
        inputs={},
        units=units_of(entries, GEOMETRY_CHUNK),
        work=partial(write_geometry, dataset, work),
        create=partial(create_store, kind="geometry", sizes=sizes),
        layout=store_layout("geometry"),
        origin=Origin(
            dataset,
            fields=("cameras", "image", "camera_images"),
            stores={"records": folders.records},
            command=shlex.join(["protoocc", "prepare", dataset.name]),
        ),
    )


def write_geometry(dataset: DatasetSpec, work: Path, store: Path, unit: Unit) -> UnitReport:
    """Writes the rows of one unit to a store."""
    matrices = [record_matrices(dataset, record) for record in each_record(WorkFolder(work).records, unit.entries)]
    arrays = {name: np.stack([one[name] for one in matrices]) for name in matrices[0]}
    write_records(store, unit.entries[0].row, arrays)
    return UnitReport(done=unit.size)


def record_matrices(dataset: DatasetSpec, record: SampleRecord) -> dict[str, Float[np.ndarray, "..."]]:  # noqa: UP037  jaxtyping takes the string
    """Row of each array of `geometry.zarr` for one record."""
    images = [image_from_camera(record.cameras[channel], dataset.image_of(channel)) for channel in dataset.cameras]
    global_from_ego = record.global_from_ego
    return {
        "image_from_camera": np.stack(images),
        "camera_from_ego": np.stack([record.camera_from_global(name) @ global_from_ego for name in dataset.cameras]),
        "global_from_ego": global_from_ego,
    }


def image_from_camera(camera: CameraRecord, image: ImageSpec) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the network's image.

    A resize by s multiplies u and v by s (image coordinates are continuous), a crop then subtracts its corner.

    Args:
        camera: camera with the intrinsics of the file's image, pixels.
        image: resize and crop.

    Returns:
        3x3, pixels of the cropped image.
    """
    return cropped_from_file((camera.width, camera.height), image) @ np.array(camera.intrinsics, dtype=np.float64)


def cropped_from_file(size: tuple[int, int], image: ImageSpec) -> Float[np.ndarray, "3 3"]:
    """The map from pixels of a file of (width, height) to pixels of the cropped image."""
    left, top = image.crop[:2]
    width, height = image.resized(size)
    return np.array(
        [
            [width / size[0], 0.0, -float(left)],
            [0.0, height / size[1], -float(top)],
            [0.0, 0.0, 1.0],
        ]
    )
