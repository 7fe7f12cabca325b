"""Bytes of a shard to one decoded keyframe; each error names the shard and the sample."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from protoocc.data.shards import PACK_AGAIN, DatasetInfo, SampleEntry
from schemas.errors import DataError

OCCUPANCY_ARRAYS = ("semantics", "mask_lidar", "mask_camera")


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """One decoded sample in its compact types; V camera, H W image, X Y Z voxel.

    Attributes:
        token: sample token.
        images: RGB.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: ego frame to camera, metres.
        segment_id: pseudo mask of each pixel; None where the shards hold no masks.
        semantics: class 0..17 or 255.
        mask_lidar: 1 = observed by the LiDAR.
        mask_camera: 1 = observed by a camera.
    """

    token: str
    images: UInt8[np.ndarray, "V H W 3"]
    image_from_camera: Float32[np.ndarray, "V 3 3"]
    camera_from_ego: Float32[np.ndarray, "V 4 4"]
    segment_id: UInt16[np.ndarray, "V H W"] | None
    semantics: UInt8[np.ndarray, "X Y Z"]
    mask_lidar: UInt8[np.ndarray, "X Y Z"]
    mask_camera: UInt8[np.ndarray, "X Y Z"]


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
    images = [_image(f"{where}, {camera}", members[f"{camera.lower()}.jpg"], dataset) for camera in dataset.cameras]
    segments = _segments(where, members["masks.png"], dataset) if "masks.png" in members else None
    occupancy = decode_occupancy(where, members["occupancy.npz"], dataset)
    matrices = _calibration(where, members["meta.json"], sample.token, dataset)
    return Keyframe(token=sample.token, images=np.stack(images), segment_id=segments, **matrices, **occupancy)


def decode_occupancy(where: str, data: bytes, dataset: DatasetInfo) -> dict[str, UInt8[np.ndarray, "X Y Z"]]:
    """Arrays of `occupancy.npz` by name.

    Args:
        where: shard and sample, for messages.
        data: the file.
        dataset: says the grid.

    Raises:
        DataError: no npz, an array is missing, or it is not uint8 of the grid's shape.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in OCCUPANCY_ARRAYS}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where}: occupancy.npz is damaged: {error}. {PACK_AGAIN}") from error
    for name, array in arrays.items():
        if array.shape != dataset.grid.shape or array.dtype != np.uint8:
            raise DataError(
                f"{where}: '{name}' is {array.dtype} {array.shape}, the manifest says uint8 {dataset.grid.shape}"
            )
    return arrays


def _image(where: str, data: bytes, dataset: DatasetInfo) -> UInt8[np.ndarray, "H W 3"]:
    image = _imdecode(where, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.shape != (*dataset.image_shape, 3):
        raise DataError(f"{where}: image is {image.shape[:2]} (H, W), the manifest says {dataset.image_shape}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _segments(where: str, data: bytes, dataset: DatasetInfo) -> UInt16[np.ndarray, "V H W"]:
    height, width = dataset.image_shape
    segments = _imdecode(f"{where}, masks.png", data, cv2.IMREAD_UNCHANGED)
    shape = (len(dataset.cameras), height, width)
    if segments.dtype != np.uint16 or segments.shape != (shape[0] * height, width):
        raise DataError(f"{where}: masks.png is {segments.dtype} {segments.shape}, expected uint16 (V*H, W) of {shape}")
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
    try:
        meta = json.loads(data)
        matrices = {name: np.array(meta[name], np.float32) for name in ("image_from_camera", "camera_from_ego")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: meta.json is damaged: {error!r}. {PACK_AGAIN}") from error
    if meta.get("token") != token:
        raise DataError(f"{where}: meta.json has token {meta.get('token')!r}, the index says {token!r}. {PACK_AGAIN}")
    for name, size in (("image_from_camera", 3), ("camera_from_ego", 4)):
        shape = (len(dataset.cameras), size, size)
        if matrices[name].shape != shape or not np.isfinite(matrices[name]).all():
            raise DataError(f"{where}: {name} has shape {matrices[name].shape} or is not finite, expected {shape}")
    return matrices
