"""Stage `geometry`: camera matrices of the network's images as arrays, one row per record."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pipelines.stage import Origin, Stage, Unit, UnitReport, units_of
from pipelines.zarr_io import create_store, store_layout, write_record
from schemas.datasets import DatasetSpec, ImageSpec
from schemas.records import CameraRecord, read_index, read_records

UNIT_SIZE = 128


def geometry_stage(dataset: DatasetSpec, work: Path) -> Stage:
    """The stage that writes ``work/geometry.zarr`` from ``work/records``."""
    entries = read_index(work / "records")
    sizes = {"N": len(entries), "V": len(dataset.cameras)}
    return Stage(
        name="geometry",
        folder=work / "geometry.zarr",
        config={},
        inputs={},
        units=units_of(entries, UNIT_SIZE),
        work=partial(write_geometry, dataset, work),
        create=partial(create_store, kind="geometry", sizes=sizes),
        layout=store_layout("geometry"),
        origin=Origin(
            dataset,
            fields=("cameras", "image", "camera_images"),
            stores={"records": work / "records"},
            command=f"protoocc prepare {dataset.name}",
        ),
    )


def write_geometry(dataset: DatasetSpec, work: Path, store: Path, unit: Unit) -> UnitReport:
    """Writes the rows of one unit to a store."""
    records = read_records(work / "records", unit.entries)
    for entry, record in zip(unit.entries, records, strict=True):
        cameras = {channel: record.cameras[channel] for channel in dataset.cameras}
        arrays = {
            "image_from_camera": np.stack(
                [image_from_camera(camera, dataset.image_of(channel)) for channel, camera in cameras.items()]
            ),
            "camera_from_ego": np.stack([record.camera_from_ego(channel) for channel in dataset.cameras]),
            "global_from_ego": record.global_from_ego,
        }
        write_record(store, entry.row, arrays)
    return UnitReport(done=unit.size)


def image_from_camera(camera: CameraRecord, image: ImageSpec) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the network's image.

    A resize by s multiplies u and v by s (image coordinates are continuous), a crop then subtracts its corner.

    Args:
        camera: camera with the intrinsics of the file's image, pixels.
        image: resize and crop.

    Returns:
        3x3, pixels of the cropped image.
    """
    left, top = image.crop[:2]
    cropped_from_file = np.array(
        [
            [image.resize[0] / camera.width, 0.0, -float(left)],
            [0.0, image.resize[1] / camera.height, -float(top)],
            [0.0, 0.0, 1.0],
        ]
    )
    return cropped_from_file @ np.array(camera.intrinsics, dtype=np.float64)
