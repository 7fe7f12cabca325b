"""Bytes of a shard to one decoded keyframe; each error names the shard and the sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from protoocc.data.depth import decode_depth_points
from protoocc.labels import check_labels
from protoocc.shards import PACK_AGAIN
from schemas.errors import DataError
from schemas.outside import (
    Source,
    are_poses,
    check_intrinsics,
    check_jpeg,
    check_png,
    check_poses,
    parse_json,
    read_npz,
    shorten,
)
from schemas.outside.limits import META_BYTES, PLANET_M, VEHICLE_M
from schemas.pixels import decode_depth
from schemas.shards import (
    DEPTH_MEMBER,
    INPUT_DEPTH_MEMBER,
    MASKS_MEMBER,
    META_MEMBER,
    OCCUPANCY_MEMBER,
    DatasetInfo,
    SampleEntry,
    image_member,
)
from schemas.store import NO_SEGMENT, OCCUPANCY


@dataclass(frozen=True, kw_only=True)
class Views:
    """What the cameras saw at one keyframe.

    Attributes:
        images: RGB.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: ego frame to camera, metres.
        global_from_ego: vehicle pose, metres.
        ego_from_lidar: mounting of the LiDAR, metres; None where nobody says it, or there is no LiDAR.
        input_depth_m: depth of each pixel that a network may read, metres; 0 where there is none; None for sources
            without.
    """

    images: UInt8[np.ndarray, "V H W 3"]
    image_from_camera: Float32[np.ndarray, "V 3 3"]
    camera_from_ego: Float32[np.ndarray, "V 4 4"]
    global_from_ego: Float64[np.ndarray, "4 4"]
    ego_from_lidar: Float64[np.ndarray, "4 4"] | None = None
    input_depth_m: Float32[np.ndarray, "V H W"] | None = None


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
        depth_m: depth of each pixel, metres; 0 where no point of the LiDAR landed; None where the shards hold none.
        pixel_classes: class of each pixel with a depth, unknown elsewhere; given wherever ``depth_m`` is.
        past: images and calibration of earlier keyframes.
    """

    token: str
    segment_id: UInt16[np.ndarray, "V H W"] | None
    semantics: UInt8[np.ndarray, "X Y Z"]
    mask_lidar: UInt8[np.ndarray, "X Y Z"]
    mask_camera: UInt8[np.ndarray, "X Y Z"]
    depth_m: Float32[np.ndarray, "V H W"] | None = None
    pixel_classes: UInt8[np.ndarray, "V H W"] | None = None
    past: Past | None = None


def decode_keyframe(shard: Path, sample: SampleEntry, members: Mapping[str, bytes], dataset: DatasetInfo) -> Keyframe:
    """Decodes all members and compares them with the manifest and with each other.

    Raises:
        DataError: a member is damaged, beyond `schemas.outside.limits` or other than the manifest says.
    """
    where = f"{shard}, sample {sample.key}"
    meta = _meta(where, members[META_MEMBER], sample.token, dataset)
    images = _images(where, members, dataset)
    segments = _segments(where, members[MASKS_MEMBER], meta, dataset) if MASKS_MEMBER in members else None
    arrays = decode_occupancy(where, members[OCCUPANCY_MEMBER], dataset)
    arrays |= _calibration(where, meta, dataset)
    arrays |= decode_depths(where, members, dataset)
    return Keyframe(token=sample.token, images=images, segment_id=segments, past=None, **arrays)


def decode_depths(where: str, members: Mapping[str, bytes], dataset: DatasetInfo) -> dict[str, np.ndarray]:
    """`depth_m`, `pixel_classes` and `input_depth_m` of `Keyframe`, as far as the members tell them.

    Args:
        where: shard and sample, or what else the members were made of, for messages.
        members: by their names in `schemas.shards.MEMBERS`.
        dataset: says the cameras, their image size and the class table.

    Raises:
        DataError: as `decode_keyframe`.
    """
    arrays: dict[str, np.ndarray] = {}
    if DEPTH_MEMBER in members:
        arrays |= decode_depth_points(where, members[DEPTH_MEMBER], dataset)
        arrays["input_depth_m"] = arrays["depth_m"]
    if INPUT_DEPTH_MEMBER in members:
        source = Source(f"{where}, {INPUT_DEPTH_MEMBER}", PACK_AGAIN)
        arrays["input_depth_m"] = decode_depth(decode_grey(source, members[INPUT_DEPTH_MEMBER], dataset, bits=16))
    return arrays


def decode_views(shard: Path, sample: SampleEntry, members: Mapping[str, bytes], dataset: DatasetInfo) -> Views:
    """Decodes images, calibration and vehicle pose alone.

    Raises:
        DataError: as `decode_keyframe`.
    """
    where = f"{shard}, sample {sample.key}"
    meta = _meta(where, members[META_MEMBER], sample.token, dataset)
    return Views(images=_images(where, members, dataset), **_calibration(where, meta, dataset))


def decode_poses(
    shard: Path, sample: SampleEntry, meta: bytes, dataset: DatasetInfo
) -> tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "4 4"] | None]:
    """`global_from_ego` and `ego_from_lidar` of `Views` from the metadata alone.

    Raises:
        DataError: as `decode_keyframe`.
    """
    where = f"{shard}, sample {sample.key}"
    calibration = _calibration(where, _meta(where, meta, sample.token, dataset), dataset)
    return calibration["global_from_ego"], calibration.get("ego_from_lidar")


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
        DataError: no npz, an array is missing or not uint8 of the grid's shape, a class is not in the table, or a mask
            holds something else than 0 and 1.
    """
    source = Source(f"{where}: {OCCUPANCY_MEMBER}", PACK_AGAIN)
    arrays = read_npz(source, data, [spec.name for spec in OCCUPANCY], math.prod(dataset.grid.shape))
    for spec in OCCUPANCY:
        if (array := arrays.get(spec.name)) is None:
            raise source.damaged(f"'{spec.name}' is missing")
        if array.shape != dataset.grid.shape or array.dtype != np.uint8:
            raise DataError(
                f"{where}: '{spec.name}' is {array.dtype} {array.shape}, the manifest says uint8 {dataset.grid.shape}"
            )
        if spec.unit == "0/1" and array.max() > 1:
            raise DataError(f"{where}: '{spec.name}' holds {array.max()}, expected 0 and 1. {PACK_AGAIN}")
    check_labels(f"{where}: 'semantics'", arrays["semantics"], dataset.classes, may_be_unknown=True)
    return arrays


def _images(where: str, members: Mapping[str, bytes], dataset: DatasetInfo) -> UInt8[np.ndarray, "V H W 3"]:
    images = np.empty((len(dataset.cameras), *dataset.image_shape, 3), np.uint8)
    for channel, image in zip(dataset.cameras, images, strict=True):
        _decode_into(f"{where}, {channel}", members[image_member(channel)], dataset, image)
    return images


def decode_image(where: str, data: bytes, dataset: DatasetInfo) -> UInt8[np.ndarray, "H W 3"]:
    """One camera's image, RGB; raises as `decode_keyframe`."""
    image = np.empty((*dataset.image_shape, 3), np.uint8)
    _decode_into(where, data, dataset, image)
    return image


def _decode_into(where: str, data: bytes, dataset: DatasetInfo, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes one camera's image, RGB."""
    source = Source(where, PACK_AGAIN)
    check_jpeg(source, data, dataset.image_shape)
    decoded = _imdecode(source, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded.shape != image.shape:
        raise source.damaged(f"the image is decoded to {decoded.shape}, its header says {image.shape}")
    image[:] = decoded


def _segments(where: str, data: bytes, meta: Mapping[str, Any], dataset: DatasetInfo) -> UInt16[np.ndarray, "V H W"]:
    """Segment ids, each below the number of segments of its image."""
    source = Source(f"{where}, {MASKS_MEMBER}", PACK_AGAIN)
    segments = decode_grey(source, data, dataset, bits=16)
    counts = _array(where, meta, "segment_count", (len(dataset.cameras),))
    if (segments.reshape(len(counts), -1).max(1) < counts).all():  # the usual case, and cheap
        return segments
    for channel, ids, count in zip(dataset.cameras, segments, counts, strict=True):
        if (largest := int(ids.max())) == NO_SEGMENT:
            largest = int(ids[ids != NO_SEGMENT].max(initial=0))
        if largest >= count:
            raise source.damaged(f"{channel} has segment {largest}, {META_MEMBER} says there are {count:g}")
    return segments


def decode_grey(
    source: Source, data: bytes, dataset: DatasetInfo, *, bits: int
) -> UInt8[np.ndarray, "V H W"] | UInt16[np.ndarray, "V H W"]:
    """Values of the pixels of all cameras, whose images stand below each other in a grey PNG of 8 or 16 bits.

    Raises:
        DataError: another kind or size, or damaged.
    """
    cameras, (height, width) = len(dataset.cameras), dataset.image_shape
    check_png(source, data, (cameras * height, width), bits=bits)
    return _imdecode(source, data, cv2.IMREAD_UNCHANGED).reshape(cameras, height, width)


def _imdecode(source: Source, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise source.damaged(f"the image cannot be decoded: {error}") from error
    if image is None:
        raise source.damaged("the image cannot be decoded")
    return image


def _meta(where: str, data: bytes, token: str, dataset: DatasetInfo) -> dict[str, Any]:
    """`meta.json`, which must be of this sample and of the cameras in the order of the manifest."""
    source = Source(f"{where}: {META_MEMBER}", PACK_AGAIN)
    meta = parse_json(source, data, META_BYTES)
    if meta.get("token") != token:
        raise source.error(f"has token {shorten(meta.get('token'))}, the index says {token!r}")
    if meta.get("cameras") != list(dataset.cameras):
        raise source.error(f"has cameras {shorten(meta.get('cameras'))}, the manifest says {list(dataset.cameras)}")
    return meta


def _calibration(where: str, meta: Mapping[str, Any], dataset: DatasetInfo) -> dict[str, np.ndarray]:
    cameras, source = len(dataset.cameras), Source(f"{where}: {META_MEMBER}", PACK_AGAIN)
    image_from_camera = _array(where, meta, "image_from_camera", (cameras, 3, 3))
    camera_from_ego = _array(where, meta, "camera_from_ego", (cameras, 4, 4))
    global_from_ego = _array(where, meta, "global_from_ego", (4, 4))
    check_intrinsics(source, "image_from_camera", image_from_camera)
    poses = [("camera_from_ego", camera_from_ego, VEHICLE_M), ("global_from_ego", global_from_ego[None], PLANET_M)]
    optional = {}
    if meta.get("ego_from_lidar") is not None:
        optional["ego_from_lidar"] = _array(where, meta, "ego_from_lidar", (4, 4))
        poses.append(("ego_from_lidar", optional["ego_from_lidar"][None], VEHICLE_M))
    reach_m = np.array([reach for _, some, reach in poses for _ in some])
    if not are_poses(np.concatenate([some for _, some, _ in poses]), reach_m):
        for name, some, reach in poses:
            check_poses(source, name, some, reach)
    return {
        "image_from_camera": image_from_camera.astype(np.float32),
        "camera_from_ego": camera_from_ego.astype(np.float32),
        "global_from_ego": global_from_ego,
        **optional,
    }


def _array(where: str, meta: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Float64[np.ndarray, "*shape"]:
    source = Source(f"{where}: {META_MEMBER}", PACK_AGAIN)
    try:
        values = np.array(meta[name])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise source.damaged(f"{error!r}") from error
    if values.dtype.kind not in "iuf" or values.shape != shape or not np.isfinite(values).all():
        raise source.damaged(f"{name} is {values.dtype} {values.shape}, expected finite numbers of shape {shape}")
    return values.astype(np.float64)
