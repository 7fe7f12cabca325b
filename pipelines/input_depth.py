"""Depth that a network reads where there are no shards: of a record as `pack` stores it, or beside a user's photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipelines.camera_frames import PhotoReport
from pipelines.depth_maps import depth_map_member, find_map, network_map
from pipelines.lidar_depth import lidar_depth_member
from pipelines.prepare.geometry import record_matrices
from schemas.datasets import DatasetSpec
from schemas.outside import Source
from schemas.pixels import decode_depth
from schemas.records import SampleRecord
from schemas.rig import Rig
from schemas.shards import DEPTH_MEMBER, INPUT_DEPTH_MEMBER


def record_depth(dataset: DatasetSpec, record: SampleRecord, maps: Path | None) -> dict[str, bytes]:
    """The member of a shard that tells a network the depth of a keyframe, byte for byte as `pack` writes it.

    Args:
        dataset: root, cameras, image size and class table.
        record: the keyframe.
        maps: folder of the user's maps; None for the points of the LiDAR's sweep.

    Raises:
        DataError: a map, the sweep or its point labels are missing or damaged.
    """
    if maps is not None:
        return {INPUT_DEPTH_MEMBER: depth_map_member(maps, dataset, record)}
    return {DEPTH_MEMBER: lidar_depth_member(dataset, record, record_matrices(dataset, record))}


def photo_map_paths(path: Path, rig: Rig, maps: Path) -> list[Path]:
    """The map of each photo of a moment: the photo's path, below ``maps``, ending in .npy or .png.

    Args:
        path: the calibration file, for messages.
        rig: its content.
        maps: folder of the maps of this moment.

    Raises:
        DataError: a photo has none.
    """
    cameras = rig.cameras.items()
    return [find_map(f"{path}, camera '{name}'", maps, camera.photo) for name, camera in cameras]


def photo_depth(path: Path, rig: Rig, maps: Path, images: Mapping[str, PhotoReport]) -> Float32[np.ndarray, "V H W"]:
    """Depth of the network's image of each photo, metres in steps of a centimetre as in shards; 0 where there is none.

    Args:
        path: the calibration file, for messages.
        rig: its content.
        maps: folder of the maps of this moment.
        images: from `pipelines.camera_frames.rig_images`.

    Raises:
        DataError: a map is missing, damaged or of another size than its photo.
    """
    depth = []
    for name, found in zip(rig.cameras, photo_map_paths(path, rig, maps), strict=True):
        source = Source(f"{path}, camera '{name}': depth map {found}", "Correct it.")
        (width, height), spec = images[name].size, images[name].image
        depth.append(decode_depth(network_map(source, found, (height, width), spec)))
    return np.stack(depth)
