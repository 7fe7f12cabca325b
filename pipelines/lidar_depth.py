"""Sparse depth of the network's images: points of the keyframe's LiDAR sweep, projected into each camera."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from pipelines.points import NOT_MATTER, class_of_index, read_point_labels, read_points
from schemas.datasets import DatasetSpec
from schemas.geometry import project_points, transform_points
from schemas.records import SampleRecord
from schemas.shards import DEPTH_ARRAYS

NEAREST_M: Final = 0.5
"""Points nearer to a camera than this are on the vehicle itself."""


class PixelPoints(NamedTuple):
    """Points in one camera's image, at most one for each pixel, in the order of rows."""

    row: Int64[np.ndarray, " n"]
    column: Int64[np.ndarray, " n"]
    depth_m: Float32[np.ndarray, " n"]
    """Along the camera's axis."""
    label: UInt8[np.ndarray, " n"]
    """Class of the dataset's table; ignored where nobody labelled the point."""


def lidar_depth_member(dataset: DatasetSpec, record: SampleRecord, geometry: Mapping[str, np.ndarray]) -> bytes:
    """`depth.npz` of a keyframe: the points of `keyframe_pixels`, camera after camera; errors as there."""
    cameras = keyframe_pixels(dataset, record, geometry)
    parts: dict[str, list[Any]] = {
        "count": [[len(points.row)] for points in cameras],
        "u": [points.column for points in cameras],
        "v": [points.row for points in cameras],
        "depth_m": [points.depth_m for points in cameras],
        "label": [points.label for points in cameras],
    }
    stored = io.BytesIO()
    arrays = {name: np.concatenate(parts[name]).astype(dtype) for name, dtype in DEPTH_ARRAYS.items()}
    np.savez_compressed(stored, **arrays)
    return stored.getvalue()


def keyframe_pixels(
    dataset: DatasetSpec, record: SampleRecord, geometry: Mapping[str, np.ndarray]
) -> list[PixelPoints]:
    """Points of a keyframe's sweep in the network's image of each camera; none without a LiDAR.

    Each camera looks from where it was at its own exposure, so what stands still is in the right place.

    Args:
        dataset: root, cameras, image size and class table.
        record: the keyframe.
        geometry: its row of `geometry.zarr`.

    Raises:
        DataError: the sweep or its point labels are missing or damaged.
    """
    points = np.zeros((0, 3))
    labels = np.zeros(0, np.uint8)
    if record.lidar is not None:
        points = read_points(dataset, record.lidar, record.token)
        labels = _labels(dataset, record, len(points))
        matter = labels != NOT_MATTER
        points = transform_points(record.lidar.ego_from_lidar.matrix, points[matter])
        labels = np.where(labels < dataset.classes.num_classes, labels, dataset.classes.ignored).astype(np.uint8)[
            matter
        ]
    return [
        project_to_pixels(points, labels, image_from_camera, camera_from_ego, dataset.image.shape)
        for image_from_camera, camera_from_ego in zip(
            geometry["image_from_camera"], geometry["camera_from_ego"], strict=True
        )
    ]


def lidar_paths(dataset: DatasetSpec, record: SampleRecord) -> list[Path]:
    """Raw files that `keyframe_pixels` reads of a keyframe."""
    if record.lidar is None:
        return []
    labels = [] if record.lidar.labels_path is None else [record.lidar.labels_path]
    return [dataset.root / path for path in (record.lidar.path, *labels)]


def _labels(dataset: DatasetSpec, record: SampleRecord, count: int) -> UInt8[np.ndarray, " n"]:
    if record.keyframe_sweep.labels_path is None:
        return np.full(count, dataset.classes.ignored, np.uint8)
    return read_point_labels(dataset, record.keyframe_sweep, record.token, class_of_index(dataset), count)


def project_to_pixels(
    points_ego: Float[np.ndarray, "n 3"],
    labels: UInt8[np.ndarray, " n"],
    image_from_camera: Float[np.ndarray, "3 3"],
    camera_from_ego: Float[np.ndarray, "4 4"],
    shape: tuple[int, int],
) -> PixelPoints:
    """Points that land in an image; of several in one pixel the nearest, which hides the others.

    Args:
        points_ego: metres, ego frame.
        labels: class of each point.
        image_from_camera: intrinsics of the network's image, pixels.
        camera_from_ego: pose of the ego frame in the camera's, metres.
        shape: (H, W) of the network's image, pixels.
    """
    points_camera = transform_points(camera_from_ego, points_ego)
    ahead = points_camera[:, 2] > NEAREST_M
    uv_px, depth_m = project_points(image_from_camera, points_camera[ahead])
    inside = np.all((uv_px >= 0) & (uv_px < [shape[1], shape[0]]), axis=1)
    column, row = uv_px[inside].astype(np.int64).T
    depth_m, labels = depth_m[inside], labels[ahead][inside]
    order = np.lexsort([depth_m, row * shape[1] + column])
    first = order[np.flatnonzero(np.diff((row * shape[1] + column)[order], prepend=-1))]
    return PixelPoints(row[first], column[first], depth_m[first].astype(np.float32), labels[first])
