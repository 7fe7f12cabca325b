"""What the cameras saw at one moment, as a network reads it: the raw images of a record, or a user's photos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from pipelines.images import decode_file
from pipelines.prepare.geometry import cropped_from_file, record_matrices
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid, invert_rigid, project_points, transform_points
from schemas.images import ImageSpec
from schemas.network_images import resize_and_crop
from schemas.outside import Source, read_bytes
from schemas.outside.limits import CAMERA_PIXELS
from schemas.records import SampleRecord
from schemas.rig import LARGEST_STRETCH, Rig, RigCamera, check_photo, fill_shape, stretch_of

_NEAREST_M: Final = 0.1
PHOTO_BYTES: Final = 4 * CAMERA_PIXELS
"""No photo of so many pixels has a larger file."""


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """One moment; the fields of `protoocc.data.decode.Views`, which this room does not know.

    Attributes:
        images: RGB.
        image_from_camera: intrinsics, pixels of ``images``.
        camera_from_ego: ego frame to camera, metres.
        global_from_ego: vehicle pose, metres.
    """

    images: UInt8[np.ndarray, "V H W 3"]
    image_from_camera: Float32[np.ndarray, "V 3 3"]
    camera_from_ego: Float32[np.ndarray, "V 4 4"]
    global_from_ego: Float64[np.ndarray, "4 4"]


def record_frame(dataset: DatasetSpec, record: SampleRecord) -> CameraFrame:
    """The images of a keyframe as `pack` stores them, less their JPEG, with the matrices of `geometry`.

    Raises:
        DataError: an image is missing or damaged.
    """
    images = []
    for channel in dataset.cameras:
        path = dataset.root / record.cameras[channel].path
        source = Source(f"sample {record.token}: image {path}", "Restore the file.")
        spec = dataset.image_of(channel)
        images.append(_rgb(resize_and_crop(decode_file(source, path, spec), spec)))
    matrices = record_matrices(dataset, record)
    return CameraFrame(
        images=np.stack(images),
        image_from_camera=matrices["image_from_camera"].astype(np.float32),
        camera_from_ego=matrices["camera_from_ego"].astype(np.float32),
        global_from_ego=record.global_from_ego,
    )


@dataclass(frozen=True)
class PhotoReport:
    """What was done with one photo, for people."""

    camera: str
    size: tuple[int, int]
    """(width, height) of the file."""
    image: ImageSpec
    yaw_deg: float
    """Where the camera looks: 0 forward, 90 to the left."""
    pitch_deg: float
    """0 level, positive upwards."""

    def describe(self) -> str:
        """One line."""
        (width, height), (left, top, wide, high) = self.image.resized(self.size), self.image.crop
        return (
            f"{self.camera}: {self.size[0]}x{self.size[1]} resized to {width}x{height}, columns {left} to "
            f"{left + wide} and rows {top} to {top + high} kept; looks {_side(self.yaw_deg, 'left', 'right')} of "
            f"forward, {_side(self.pitch_deg, 'up', 'down')}"
        )


def _side(angle_deg: float, positive: str, negative: str) -> str:
    """An angle in words, such as 55 deg left."""
    return f"{abs(angle_deg):.0f} deg {positive if angle_deg > 0 else negative}"


def rig_images(path: Path, rig: Rig, folder: Path, trained_on: tuple[int, int] | None) -> dict[str, PhotoReport]:
    """How each photo of the first moment becomes an image of the network.

    Args:
        path: the calibration file, for messages.
        rig: its content.
        folder: where relative photos start.
        trained_on: (H, W) of the images that the network was trained with; None where nobody knows.

    Raises:
        DataError: a photo is missing or damaged, or the calibration is of images of another size.
        ConfigError: no size is known, a photo would be stretched, or its crop leaves it.
    """
    reports = {}
    given = next((spec.shape for spec in (c.image or rig.image for c in rig.cameras.values()) if spec), trained_on)
    for name, camera in rig.cameras.items():
        size = _photo_size(path, folder, name, camera)
        spec = camera.image or rig.image
        if spec is None and given is None:
            raise ConfigError(
                f"{path}: the checkpoint does not say which size its training images had. Write it into this file, "
                f"such as `image: {{resize: [800, 450], crop: [0, 18, 800, 432]}}`"
            )
        spec = spec or fill_shape(size, given or (0, 0))
        _check_fit(f"{path}, camera '{name}'", camera, spec, size)
        forward = camera.pose[:3, 2]
        yaw, pitch = np.degrees([np.arctan2(forward[1], forward[0]), np.arcsin(np.clip(forward[2], -1, 1))])
        reports[name] = PhotoReport(name, size, spec, float(yaw), float(pitch))
    return reports


def _photo_size(path: Path, folder: Path, name: str, camera: RigCamera) -> tuple[int, int]:
    source = _photo_source(path, folder, name, camera)
    height, width = decode_file(source, folder / camera.photo).shape[:2]
    check_photo(source, camera, (width, height))
    return width, height


def _photo_source(path: Path, folder: Path, name: str, camera: RigCamera) -> Source:
    return Source(f"{path}, camera '{name}': photo {folder / camera.photo}", f"Correct it, or `photo` in {path.name}.")


def _check_fit(where: str, camera: RigCamera, image: ImageSpec, size: tuple[int, int]) -> None:
    resized = image.resized(size)
    if not image.crop_fits(resized):
        raise ConfigError(
            f"{where}: the photo of {size[0]}x{size[1]} pixels, resized to {resized[0]}x{resized[1]}, does not hold "
            f"the crop (left, top, width, height) {image.crop}. Correct `image`, or leave it away."
        )
    if camera.image is None and (stretch := stretch_of(size, resized)) > LARGEST_STRETCH:
        raise ConfigError(
            f"{where}: `image` would stretch the photo of {size[0]}x{size[1]} pixels by {100 * stretch:.0f} % to "
            f"{resized[0]}x{resized[1]}. Give this camera an `image` of its own, or leave `image` away."
        )


def photo_frame(path: Path, rig: Rig, folder: Path, images: Mapping[str, PhotoReport]) -> CameraFrame:
    """The photos of one moment with their calibration; the ego frame is the world.

    Args:
        path: the calibration file, for messages.
        rig: its content.
        folder: where relative photos start.
        images: from `rig_images`.

    Raises:
        DataError: a photo is missing, damaged or of another size than it was.
    """
    pixels, matrices = [], []
    for name, camera in rig.cameras.items():
        source = _photo_source(path, folder, name, camera)
        photo = decode_file(source, folder / camera.photo)
        report, size = images[name], (photo.shape[1], photo.shape[0])
        if size != report.size:
            raise source.error(f"has {size[0]}x{size[1]} pixels, the first one of this camera {report.size}")
        pixels.append(_rgb(resize_and_crop(photo, report.image)))
        matrices.append(cropped_from_file(size, report.image) @ camera.matrix(size))
    poses = [invert_rigid(camera.pose) for camera in rig.cameras.values()]
    return CameraFrame(
        images=np.stack(pixels),
        image_from_camera=np.stack(matrices).astype(np.float32),
        camera_from_ego=np.stack(poses).astype(np.float32),
        global_from_ego=np.eye(4),
    )


def seen_voxels(frame: CameraFrame, grid: VoxelGrid) -> list[int]:
    """Number of voxels whose centre each camera has in its image: none where a pose or matrix is wrong."""
    centers = grid.centers().reshape(-1, 3)
    height, width = frame.images.shape[1:3]
    counts = []
    for matrix, pose in zip(frame.image_from_camera, frame.camera_from_ego, strict=True):
        uv_px, depth_m = project_points(matrix.astype(np.float64), transform_points(pose.astype(np.float64), centers))
        inside = ((uv_px >= 0) & (uv_px < (width, height))).all(axis=1) & (depth_m > _NEAREST_M)
        counts.append(int(inside.sum()))
    return counts


def photos_digest(path: Path, rig: Rig, folders: Sequence[Path]) -> str:
    """SHA-256 over the calibration file and all photos: what predictions were made from.

    Raises:
        DataError: a photo is missing.
    """
    digest = hashlib.sha256(path.read_bytes())
    for folder in folders:
        for name, camera in rig.cameras.items():
            data = read_bytes(_photo_source(path, folder, name, camera), folder / camera.photo, PHOTO_BYTES)
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _rgb(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
