"""Bytes of a shard to one decoded keyframe; each error names the shard and the sample."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from protoocc.data.shards import PACK_AGAIN
from protoocc.labels import check_labels
from schemas.errors import DataError
from schemas.shards import MASKS_MEMBER, META_MEMBER, OCCUPANCY_MEMBER, DatasetInfo, SampleEntry, image_member
from schemas.store import OCCUPANCY


@dataclass(frozen=True, kw_only=True)
class Views:
    """What the cameras saw at one keyframe.

    Attributes:
        images: RGB.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: ego frame to camera, metres.
        global_from_ego: vehicle pose, metres.
    """

    images: UInt8[np.ndarray, "V H W 3"]
    image_from_camera: Float32[np.ndarray, "V 3 3"]
    camera_from_ego: Float32[np.ndarray, "V 4 4"]
    global_from_ego: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True, kw_only=True)
class Past:
    """Earlier keyframes of a sample, the nearest first.

    Attributes:
        images: RGB.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: ego frame of the earlier keyframe to its cameras, metres.
        past_from_ego: pose of the present ego frame in the earlier one, metres.
    """

    images: UInt8[np.ndarray, "T V H W 3"]
    image_from_camera: Float32[np.ndarray, "T V 3 3"]
    camera_from_ego: Float32[np.ndarray, "T V 4 4"]
    past_from_ego: Float32[np.ndarray, "T 4 4"]


@dataclass(frozen=True, kw_only=True)
class Keyframe(Views):
    """One decoded sample in its compact types; V camera, H W image, X Y Z voxel, T earlier keyframe, nearest first.

    Attributes:
        token: sample token.
        segment_id: pseudo mask of each pixel; None where the shards hold no masks.
        semantics: class of the shards' table, which may be unknown.
        mask_lidar: 1 = observed by the LiDAR.
        mask_camera: 1 = observed by a camera.
        past: images and calibration of earlier keyframes.
    """

    token: str
    segment_id: UInt16[np.ndarray, "V H W"] | None
    semantics: UInt8[np.ndarray, "X Y Z"]
    mask_lidar: UInt8[np.ndarray, "X Y Z"]
    mask_camera: UInt8[np.ndarray, "X Y Z"]
    past: Past | None = None


def read_member(shard: Path, sample: SampleEntry, extension: str, descriptor: int) -> bytes:
    """Bytes of one member of a sample.

    Args:
        shard: path of the tar, for messages.
        sample: where its members lie.
        extension: which member.
        descriptor: open file of the shard; it is read by position, so threads and forked processes may share it.

    Raises:
        DataError: the shard ends early.
    """
    offset, size = sample.members[extension]
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise DataError(f"{shard}, sample {sample.key}: '{extension}' ends after {len(data)} of {size} bytes")
    return data


def decode_keyframe(shard: Path, sample: SampleEntry, members: Mapping[str, bytes], dataset: DatasetInfo) -> Keyframe:
    """Decodes all members and compares their shapes with the manifest.

    Raises:
        DataError: a member is damaged or has another shape than the manifest says.
    """
    where = f"{shard}, sample {sample.key}"
    images = _images(where, members, dataset)
    segments = _segments(where, members[MASKS_MEMBER], dataset) if MASKS_MEMBER in members else None
    arrays = decode_occupancy(where, members[OCCUPANCY_MEMBER], dataset)
    arrays |= _calibration(where, members[META_MEMBER], sample.token, dataset)
    return Keyframe(token=sample.token, images=images, segment_id=segments, past=None, **arrays)


def decode_views(shard: Path, sample: SampleEntry, members: Mapping[str, bytes], dataset: DatasetInfo) -> Views:
    """Decodes images, calibration and vehicle pose alone.

    Raises:
        DataError: a member is damaged or has another shape than the manifest says.
    """
    where = f"{shard}, sample {sample.key}"
    calibration = _calibration(where, members[META_MEMBER], sample.token, dataset)
    return Views(images=_images(where, members, dataset), **calibration)


def join_past(present: Views, earlier: Sequence[Views]) -> Past:
    """Earlier keyframes, the nearest first, as seen from the present one."""
    motions = [np.linalg.inv(views.global_from_ego) @ present.global_from_ego for views in earlier]
    return Past(
        images=np.stack([views.images for views in earlier]),
        image_from_camera=np.stack([views.image_from_camera for views in earlier]),
        camera_from_ego=np.stack([views.camera_from_ego for views in earlier]),
        past_from_ego=np.stack(motions).astype(np.float32),
    )


def decode_occupancy(where: str, data: bytes, dataset: DatasetInfo) -> dict[str, UInt8[np.ndarray, "X Y Z"]]:
    """Arrays of `occupancy.npz` by name.

    Args:
        where: shard and sample, for messages.
        data: the file.
        dataset: says the grid and the class table.

    Raises:
        DataError: no npz, an array is missing or not uint8 of the grid's shape, or a class is not in the table.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {spec.name: archive[spec.name] for spec in OCCUPANCY}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where}: {OCCUPANCY_MEMBER} is damaged: {error}. {PACK_AGAIN}") from error
    for name, array in arrays.items():
        if array.shape != dataset.grid.shape or array.dtype != np.uint8:
            raise DataError(
                f"{where}: '{name}' is {array.dtype} {array.shape}, the manifest says uint8 {dataset.grid.shape}"
            )
    check_labels(f"{where}: 'semantics'", arrays["semantics"], dataset.classes, may_be_unknown=True)
    return arrays


def _images(where: str, members: Mapping[str, bytes], dataset: DatasetInfo) -> UInt8[np.ndarray, "V H W 3"]:
    return np.stack([_image(f"{where}, {name}", members[image_member(name)], dataset) for name in dataset.cameras])


def _image(where: str, data: bytes, dataset: DatasetInfo) -> UInt8[np.ndarray, "H W 3"]:
    image = _imdecode(where, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.shape != (*dataset.image_shape, 3):
        raise DataError(f"{where}: image is {image.shape[:2]} (H, W), the manifest says {dataset.image_shape}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _segments(where: str, data: bytes, dataset: DatasetInfo) -> UInt16[np.ndarray, "V H W"]:
    height, width = dataset.image_shape
    segments = _imdecode(f"{where}, {MASKS_MEMBER}", data, cv2.IMREAD_UNCHANGED)
    shape = (len(dataset.cameras), height, width)
    if segments.dtype != np.uint16 or segments.shape != (shape[0] * height, width):
        raise DataError(
            f"{where}: {MASKS_MEMBER} is {segments.dtype} {segments.shape}, expected uint16 (V*H, W) of {shape}"
        )
    return segments.reshape(shape)


def _imdecode(where: str, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{where}: image is damaged: {error}. {PACK_AGAIN}") from error
    if image is None:
        raise DataError(f"{where}: image is damaged (cannot be decoded). {PACK_AGAIN}")
    return image


def _calibration(where: str, data: bytes, token: str, dataset: DatasetInfo) -> dict[str, np.ndarray]:
    meta = _meta(where, data)
    if meta.get("token") != token:
        raise DataError(
            f"{where}: {META_MEMBER} has token {meta.get('token')!r}, the index says {token!r}. {PACK_AGAIN}"
        )
    cameras = len(dataset.cameras)
    return {
        "image_from_camera": _matrix(where, meta, "image_from_camera", (cameras, 3, 3)).astype(np.float32),
        "camera_from_ego": _matrix(where, meta, "camera_from_ego", (cameras, 4, 4)).astype(np.float32),
        "global_from_ego": _matrix(where, meta, "global_from_ego", (4, 4)),
    }


def _meta(where: str, data: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(data)
    except ValueError as error:
        raise DataError(f"{where}: {META_MEMBER} is damaged: {error!r}. {PACK_AGAIN}") from error
    if not isinstance(meta, dict):
        raise DataError(f"{where}: {META_MEMBER} is damaged: it holds no object. {PACK_AGAIN}")
    return meta


def _matrix(where: str, meta: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Float64[np.ndarray, "*shape"]:
    try:
        matrix = np.array(meta[name], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: {META_MEMBER} is damaged: {error!r}. {PACK_AGAIN}") from error
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise DataError(f"{where}: {name} has shape {matrix.shape} or is not finite, expected {shape}")
    return matrix
