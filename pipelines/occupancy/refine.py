"""Image-guided refinement: classes of camera pixels free voxels that cannot be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16

from pipelines.occupancy.carving import count_claims
from pipelines.occupancy.config import ImageLabels
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, raise_machine_fault
from schemas.geometry import VoxelGrid
from schemas.names import folder_of
from schemas.records import SampleRecord
from schemas.voxels.visibility import View, voxel_rays

_CLASS_STEP: Final = 2048
"""16-bit images hold class * 2048 + number of the thing, as generated worlds have them; 8-bit images the class."""

ClassImage = UInt8[np.ndarray, "h w"]


def class_folder(dataset: DatasetSpec, config: ImageLabels) -> Path:
    """Where the class images are: of the stage `class-images` in the work folder, else below the dataset's root."""
    made = dataset.work / config.folder
    return made if made.is_dir() else dataset.root / config.folder


def read_class_images(folder: Path, record: SampleRecord, cameras: Sequence[str]) -> Mapping[str, ClassImage]:
    """Classes of the pixels of a keyframe's cameras, numbered as the dataset's table does; others say nothing.

    Args:
        folder: of `class_folder`; the files are `<folder>/<scene>/<sample token>/<camera>.png`.
        record: the keyframe.
        cameras: which to read.

    Returns:
        By camera; without those that have no file, whose pixels say nothing.

    Raises:
        DataError: a file is no grey PNG of 8 or 16 bits, or not of the shape of the camera's image.
    """
    folder = folder / folder_of(record.scene) / record.token
    images = {}
    for channel in cameras:
        camera = record.cameras[channel]
        if not (folder / f"{channel}.png").exists():
            continue
        image = _read(folder / f"{channel}.png", record.token)
        height, width = image.shape
        if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
            raise DataError(
                f"sample {record.token}: class image {folder / channel}.png has {width} x {height} pixels, the "
                f"camera's image {camera.width} x {camera.height}; give it the same aspect, without cropping"
            )
        images[channel] = image
    return images


def _read(path: Path, token: str) -> ClassImage:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise_machine_fault(error)
        raise DataError(
            f"sample {token}: class image {path} cannot be read ({error.strerror}); write one PNG per camera as "
            "FOLDER/SCENE/SAMPLE_TOKEN/CAMERA.png, or leave --image-labels away"
        ) from None
    image: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"] | None = (
        cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    )
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"sample {token}: class image {path} is no whole grey PNG; write class numbers with 8 bits, or "
            f"class * {_CLASS_STEP} with 16"
        )
    return image if image.dtype == np.uint8 else (image // _CLASS_STEP).astype(np.uint8)


def refuted_voxels(
    grid: VoxelGrid,
    table: ClassTable,
    semantics: UInt8[np.ndarray, "X Y Z"],
    views: Sequence[tuple[View, ClassImage]],
    *,
    rays_per_voxel: float,
    min_rays: int,
) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels through which the images see the class of what lies behind.

    A ray of a pixel walks to the first voxel of the pixel's class; what it passes before cannot stop the sight. One ray
    proves little, as things fill their voxels in part only. So a voxel is refuted by ``min_rays`` rays of all cameras
    and if no ray of its own class passes it, behind other voxels of that class either: the far corners of a thing lie
    within its outline, but rays past its edges pass them too. Ground stays, as rays that graze it pass its voxels.

    Args:
        grid: of ``semantics``.
        table: the classes.
        semantics: label of each voxel.
        views: cameras at their own exposures, and the classes of their pixels.
        rays_per_voxel: density of the rays, as for visibility (`schemas.voxels.visibility.see_voxels`).
        min_rays: how many rays it takes.

    Source: Occ3D (arXiv 2304.14365), image-guided voxel refinement, which frees whatever a ray passes.
    """
    against, in_favour = np.zeros(grid.shape, np.int32), np.zeros(grid.shape, np.int32)
    for view, image in views:
        origin, directions = voxel_rays(grid, view, rays_per_voxel)
        classes = _classes_along(view, image, directions)
        known = (classes < table.num_classes) & (classes != table.free)
        claims = count_claims(semantics, origin, directions[known], classes[known])
        against += claims[0]
        in_favour += claims[1]
    is_thing = table.is_occupied(semantics) & ~table.is_ground(semantics)
    return is_thing & (against >= min_rays) & (in_favour == 0)


def _classes_along(view: View, image: ClassImage, directions: Float64[np.ndarray, "r 3"]) -> UInt8[np.ndarray, " r"]:
    """Class of the pixel that each ray runs through."""
    rays_camera = directions @ view.ego_from_camera[:3, :3]
    uv_px = rays_camera @ view.image_from_camera.T
    uv_px = uv_px[:, :2] / uv_px[:, 2:]
    size_px = np.array([image.shape[1], image.shape[0]])
    column, row = np.clip(uv_px * size_px / [view.width_px, view.height_px], 0, size_px - 1).astype(np.int64).T
    return image[row, column]
