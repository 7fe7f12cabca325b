"""One keyframe of a generated sequence: five scans, of which the first has an image and voxels, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Shaped

from pipelines.files import write_bytes, write_json
from pipelines.synth.config import KittiConfig
from pipelines.synth.kitti.raw_ids import FIRST_THING, LAST_THING
from pipelines.synth.kitti.rig import CAMERA
from pipelines.synth.kitti.sequence import Sequence, load_sequence, sequence_folder, sequence_turns, time_s
from pipelines.synth.kitti.truth import Voxels, complete, fill_voxels, hit_voxels, input_voxels
from pipelines.synth.sensors import TRUTH_BASE, Cloud, take_picture
from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID, invert_rigid, transform_points
from schemas.pixels import encode_depth
from schemas.semantickitti import (
    CLASS_OF_RAW,
    FIRST_MOVING,
    KEYFRAME_STEP,
    UNKNOWN,
    join_label,
    token_of,
    write_bits,
    write_voxel_labels,
)

UNKNOWN_PIXEL: Final = 31
"""Class number of pixels of no scored class in truth images, whose 16 bits leave room for 0 to 31."""
SMALL_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 9)


def make_keyframe(root: Path, report_path: Path, config: KittiConfig, index: int, keyframe: int) -> None:
    """Writes all files of a keyframe below ``root``, then its report: occupied voxels of each class.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    sequence = load_sequence(config, index)
    turns = sequence_turns(config, index)
    number = keyframe * KEYFRAME_STEP
    for scan_number in range(number, number + KEYFRAME_STEP):
        _write_scan(root, sequence, scan_number, turns[scan_number][1])
    _write_image(root, sequence, number)
    voxels = _voxels(sequence, number)
    points = turns[number][1].points[:, :3]
    stem = sequence_folder(root, sequence.name) / "voxels" / f"{number:06d}"
    write_bytes(stem.with_suffix(".bin"), write_bits(input_voxels(points)))
    write_bytes(stem.with_suffix(".label"), write_voxel_labels(voxels.labels))
    write_bytes(stem.with_suffix(".invalid"), write_bits(voxels.invalid))
    write_bytes(stem.with_suffix(".occluded"), write_bits(voxels.occluded))
    counts = np.bincount(CLASS_OF_RAW[voxels.labels].ravel(), minlength=256)
    report = {name: int(counts[SEMANTICKITTI.index(name)]) for name in SEMANTICKITTI.occupied}
    write_json(report_path, {"voxels": report})


def _write_scan(root: Path, sequence: Sequence, number: int, cloud: Cloud) -> None:
    """Writes `velodyne/*.bin` (x, y, z, remission 0 .. 1 in hundredths) and `labels/*.label`."""
    folder = sequence_folder(root, sequence.name)
    remission = np.round(cloud.points[:, 3:4] / 255, 2).clip(0.0, 0.99)
    points = np.concatenate([cloud.points[:, :3], remission], axis=1).astype("<f4")
    write_bytes(folder / "velodyne" / f"{number:06d}.bin", points.tobytes())
    raw = sequence.raw_ids.of_surface(cloud.surface)
    is_thing = ((raw >= FIRST_THING) & (raw <= LAST_THING)) | (raw >= FIRST_MOVING)
    instance = np.where(is_thing, sequence.geometry.thing_number(cloud.surface), 0).astype(np.uint16)
    labels = join_label(raw, instance).astype("<u4")
    write_bytes(folder / "labels" / f"{number:06d}.label", labels.tobytes())


def _write_image(root: Path, sequence: Sequence, number: int) -> None:
    """Writes `image_2/*.png` and what each pixel truly shows."""
    config = sequence.config
    snapshot = sequence.geometry.at(time_s(number))
    salt = (sequence.index * 7919 + number * 31) % 100_003
    world_from_ego = sequence.geometry.world.ego_pose(time_s(number))
    picture = take_picture(snapshot, sequence.calibration.mount(config.image_size), world_from_ego, salt=salt)
    folder = sequence_folder(root, sequence.name)
    write_bytes(folder / CAMERA / f"{number:06d}.png", _png(picture.bgr))
    classes = CLASS_OF_RAW[sequence.raw_ids.of_surface(picture.surface)].astype(np.int32)
    classes[classes == UNKNOWN] = UNKNOWN_PIXEL
    truth = (classes * TRUTH_BASE + sequence.geometry.thing_number(picture.surface)).astype(np.uint16)
    own = root / "truth" / sequence.name / token_of(sequence.name, number)
    write_bytes(own / f"{CAMERA}.png", _png(truth))
    if config.depth:
        write_bytes(own / f"{CAMERA}-depth.png", _png(encode_depth(picture.depth_m), *SMALL_PNG))


def _png(image: Shaped[np.ndarray, "h w *c"], *options: int) -> bytes:
    _, data = cv2.imencode(".png", image, list(options))
    return bytes(data)


def _voxels(sequence: Sequence, number: int) -> Voxels:
    world_from_lidar = sequence.lidar_pose(number)
    voxel_from_world = SEMANTICKITTI_GRID.voxel_from_metres @ invert_rigid(world_from_lidar)
    turns = [turn for turn, _ in sequence_turns(sequence.config, sequence.index)]
    filled = fill_voxels(sequence.geometry.at(time_s(number)), sequence.raw_ids, world_from_lidar)
    places = np.array([sequence.lidar_pose(scan_number)[:3, 3] for scan_number in range(sequence.scans)])
    eyes = transform_points(voxel_from_world, places)
    return complete(filled, hit_voxels(voxel_from_world, turns, number), eyes, number)
