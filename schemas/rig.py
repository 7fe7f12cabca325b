"""Calibration files of a user's own images: cameras with a photo, intrinsics and a pose each; no LiDAR, no labels.

    image: {resize: [800, 450], crop: [0, 18, 800, 432]}     # optional: (width, height); (left, top, width, height)
    cameras:
      front:
        photo: front.jpg
        intrinsics: [[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]]
        ego_from_camera: {rotation_wxyz: [0.5, -0.5, 0.5, -0.5], translation_m: [1.7, 0, 1.5]}   # or a 4 x 4 matrix

Frames and pixels are those of `schemas.geometry`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import ConfigError, DataError
from schemas.geometry import Pose
from schemas.images import SMALLEST_SIDE_PX, ImageSpec
from schemas.outside import Source, check_intrinsics, check_poses, parse_json, parse_yaml, read_bytes, shorten
from schemas.outside.limits import CAMERAS, VEHICLE_M, YAML_BYTES
from schemas.records import RigidPose
from schemas.settings import Frozen, describe_validation

Rows = tuple[tuple[float, ...], ...]

LARGEST_STRETCH: Final = 0.02
"""A photo whose shape differs by more from the size that it is resized to, or was calibrated at, is refused."""


class RigCamera(Frozen):
    """One camera and its photo."""

    model_config = ConfigDict(allow_inf_nan=False)

    photo: str = Field(min_length=1, description="JPEG or PNG file; relative paths start at the folder of the photos.")
    intrinsics: Rows = Field(description="3 x 3 camera matrix, pixels of the photo (or of `calibrated_size`).")
    ego_from_camera: RigidPose | Rows = Field(
        description="Camera in the ego frame (x forward, y left, z up), metres: rotation_wxyz and translation_m, or "
        "the 4 x 4 matrix; the camera looks along its z axis, x right, y down."
    )
    calibrated_size: tuple[int, int] | None = Field(
        None, description="(width, height) of the images that `intrinsics` belong to; null: the photo's own."
    )
    image: ImageSpec | None = Field(None, description="Resize and crop of this camera's photo, instead of the rig's.")

    @field_validator("intrinsics")
    @classmethod
    def _is_three_by_three(cls, value: Rows) -> Rows:
        return _shaped(value, (3, 3))

    @field_validator("ego_from_camera")
    @classmethod
    def _is_four_by_four(cls, value: RigidPose | Rows) -> RigidPose | Rows:
        return value if isinstance(value, RigidPose) else _shaped(value, (4, 4))

    @property
    def pose(self) -> Pose:
        """4x4 ``ego_from_camera``."""
        pose = self.ego_from_camera
        return pose.matrix if isinstance(pose, RigidPose) else np.array(pose, dtype=np.float64)

    def matrix(self, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
        """Intrinsics in pixels of a photo of (width, height), scaled exactly from those of `calibrated_size`."""
        width, height = self.calibrated_size or size
        return np.diag([size[0] / width, size[1] / height, 1.0]) @ np.array(self.intrinsics, dtype=np.float64)


class Rig(Frozen):
    """A calibration file."""

    image: ImageSpec | None = Field(
        None, description="Resize and crop of all photos; null: they fill the image that the network was trained with."
    )
    cameras: dict[str, RigCamera] = Field(min_length=1, max_length=CAMERAS, description="By a name of your choice.")

    @model_validator(mode="after")
    def _one_size(self) -> Rig:
        specs = [spec for spec in (camera.image or self.image for camera in self.cameras.values()) if spec]
        shapes = {spec.shape for spec in specs}
        if any(spec.decode != "full" for spec in specs):
            raise ValueError("image.decode: photos are decoded in full, leave it away")
        if len(shapes) > 1:
            raise ValueError(f"images have different sizes after the crop, (H, W): {sorted(shapes)}; one is needed")
        if shapes and min(min(shapes)) < SMALLEST_SIDE_PX:
            raise ValueError(f"images of {min(shapes)} rows and columns are too small, {SMALLEST_SIDE_PX} are needed")
        return self


def load_rig(path: Path) -> Rig:
    """Reads and checks a calibration file, YAML or, where it is called `.json`, JSON.

    Raises:
        ConfigError: missing, unreadable, beyond `schemas.outside.limits`, a field unknown, missing or wrong, a matrix
            that is no camera's or a pose that is none; names file, camera and field.
    """
    source = Source(str(path))
    try:
        data = read_bytes(source, path, YAML_BYTES)
        values = parse_json(source, data) if path.suffix.lower() == ".json" else parse_yaml(source, data)
        rig = Rig.model_validate(_a_mapping(path, values))
        for name, camera in rig.cameras.items():
            _check_camera(Source(f"{path}, camera {shorten(name)}", "Correct it in this file."), camera)
    except ValidationError as error:
        raise ConfigError(describe_validation(str(path), error)) from error
    except DataError as error:
        raise ConfigError(str(error)) from error
    return rig


def _a_mapping(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected `cameras: {{NAME: {{photo: ..., intrinsics: ...}}}}`, found {shorten(values)}"
        )
    return values


def _check_camera(source: Source, camera: RigCamera) -> None:
    check_intrinsics(source, "intrinsics", np.array(camera.intrinsics, dtype=np.float64))
    check_poses(source, "ego_from_camera", camera.pose, VEHICLE_M)
    if camera.calibrated_size is not None and min(camera.calibrated_size) < 1:
        raise source.error(f"calibrated_size {camera.calibrated_size} is no (width, height) in pixels")


def check_photo(source: Source, camera: RigCamera, size: tuple[int, int]) -> None:
    """Whether the intrinsics can be those of a photo of (width, height) pixels.

    Raises:
        DataError: the photo has another shape than `calibrated_size`, or the principal point lies outside of it.
    """
    if camera.calibrated_size is not None and stretch_of(camera.calibrated_size, size) > LARGEST_STRETCH:
        raise source.error(
            f"the photo has {size[0]}x{size[1]} pixels, calibrated_size says {camera.calibrated_size}: another shape"
        )
    center = camera.matrix(size)[:2, 2]
    if not (0 <= center[0] <= size[0] and 0 <= center[1] <= size[1]):
        raise source.error(
            f"intrinsics have their centre at ({center[0]:g}, {center[1]:g}), outside of the photo of "
            f"{size[0]}x{size[1]} pixels. If they belong to images of another size, say so: "
            "`calibrated_size: [width, height]`"
        )


def fill_shape(size: tuple[int, int], shape: tuple[int, int]) -> ImageSpec:
    """Resize and crop by which a photo fills the network's image.

    The photo is scaled until it covers the image, as little as possible. What is too wide is cut off at both sides
    alike, what is too high at the top, where the sky is.

    Args:
        size: (width, height) of the photo.
        shape: (H, W) of the network's image.
    """
    scale = max(shape[1] / size[0], shape[0] / size[1])
    width, height = max(shape[1], round(size[0] * scale)), max(shape[0], round(size[1] * scale))
    return ImageSpec(resize=(width, height), crop=((width - shape[1]) // 2, height - shape[0], shape[1], shape[0]))


def stretch_of(one: tuple[int, int], other: tuple[int, int]) -> float:
    """By what share a (width, height) would be stretched to become another one; 0 where both have the same shape."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return max(ratio, 1 / ratio) - 1


def _shaped(value: Rows, shape: tuple[int, int]) -> Rows:
    found = [len(row) for row in value]
    if found != [shape[1]] * shape[0]:
        raise ValueError(f"expected {shape[0]} rows of {shape[1]} numbers, found rows of {found[:8]}")
    return value
