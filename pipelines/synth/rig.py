"""The sensor rig: six cameras and a 32-beam LiDAR, where they sit, how they see and when they fire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from schemas.geometry import Pose, rigid_transform

CAMERAS: Final = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR: Final = "LIDAR_TOP"
KEYFRAME_US: Final = 500_000
SWEEP_US: Final = 50_000

# yaw_deg, x_m, y_m, z_m, focal_px at 1600 pixels width, microseconds after the LiDAR keyframe
_CAMERA_MOUNTS: Final[dict[str, tuple[float, float, float, float, float, int]]] = {
    "CAM_FRONT": (0.0, 1.70, 0.0, 1.51, 1266.0, -35_000),
    "CAM_FRONT_RIGHT": (-56.0, 1.55, -0.49, 1.50, 1261.0, -27_000),
    "CAM_FRONT_LEFT": (55.0, 1.52, 0.49, 1.51, 1272.0, -43_000),
    "CAM_BACK": (180.0, 0.03, 0.0, 1.58, 809.0, -10_000),
    "CAM_BACK_LEFT": (108.0, 1.04, 0.48, 1.59, 1257.0, 0),
    "CAM_BACK_RIGHT": (-110.0, 1.01, -0.48, 1.56, 1260.0, -20_000),
}
_CAMERA_AXES: Final = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Camera axes (x right, y down, z forward) of a camera that looks along the vehicle's x; columns in vehicle axes."""

LIDAR_NEAR_M: Final = 1.0
LIDAR_RANGE_M: Final = 70.0


class Beams(NamedTuple):
    """How a LiDAR looks around."""

    number: int
    azimuths: int
    """Directions of each beam in one turn."""
    limits_deg: tuple[float, float]
    """Pitch of the lowest and of the highest beam."""


HDL_32: Final = Beams(32, 1080, (-30.67, 10.67))
"""The LiDAR of nuScenes."""


@dataclass(frozen=True)
class Mount:
    """A sensor on the vehicle, in the numbers that the tables hold."""

    channel: str
    translation_m: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]
    image_from_camera: Float[np.ndarray, "3 3"] | None
    """Intrinsics in pixels; none for the LiDAR."""
    image_size: tuple[int, int] | None
    """Width and height in pixels; none for the LiDAR."""
    delay_us: int
    """Exposure minus the time of the LiDAR keyframe."""

    @property
    def ego_from_sensor(self) -> Pose:
        """Pose of the sensor on the vehicle."""
        return rigid_transform(self.rotation_wxyz, self.translation_m)


def quaternion(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a rotation, w >= 0."""
    x, y, z, w = (float(value) for value in Rotation.from_matrix(rotation).as_quat(canonical=True))
    return (w, x, y, z)


def build_rig(image_size: tuple[int, int], generator: np.random.Generator) -> dict[str, Mount]:
    """Mounts by channel; each vehicle is built a little differently (0.2 degrees, 1 cm, 5 pixels of 1600).

    Args:
        image_size: width and height, pixels; intrinsics scale with it.
        generator: source of the small differences.
    """
    scale = image_size[0] / 1600.0
    rig = {}
    for channel, (yaw, x, y, z, focal, delay) in _CAMERA_MOUNTS.items():
        error = Rotation.from_rotvec(np.radians(generator.normal(0.0, 0.2, 3))).as_matrix()
        rotation = error @ Rotation.from_euler("z", yaw, degrees=True).as_matrix() @ _CAMERA_AXES
        focal_px, center = (focal + generator.normal(0.0, 5.0)) * scale, generator.normal((810.0, 490.0), 5.0) * scale
        intrinsics = np.array([[focal_px, 0.0, center[0]], [0.0, focal_px, center[1]], [0.0, 0.0, 1.0]])
        dx, dy, dz = (float(value) for value in generator.normal(0.0, 0.01, 3))
        rig[channel] = Mount(channel, (x + dx, y + dy, z + dz), quaternion(rotation), intrinsics, image_size, delay)
    tilt = Rotation.from_euler("zyx", [-90.0, generator.normal(0.0, 0.5), generator.normal(0.0, 0.5)], degrees=True)
    rig[LIDAR] = Mount(LIDAR, (0.94, 0.0, 1.84), quaternion(tilt.as_matrix()), None, None, 0)
    return rig


def pixel_rays(image_from_camera: Float[np.ndarray, "3 3"], width: int, height: int) -> Float32[np.ndarray, "n 3"]:
    """Directions through pixel centres, row by row.

    Args:
        image_from_camera: intrinsics.
        width: image width, pixels.
        height: image height, pixels.

    Returns:
        (N, 3) unit vectors in the camera frame.
    """
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(image_from_camera).T
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


def lidar_rays(beams: Beams = HDL_32) -> Float32[np.ndarray, "n 3"]:
    """Directions of one turn, azimuth by azimuth, beam 0 lowest: (azimuths * number, 3) unit vectors, LiDAR frame."""
    azimuth = np.arange(beams.azimuths) * 2 * np.pi / beams.azimuths
    pitch = np.radians(np.linspace(*beams.limits_deg, beams.number))
    a, p = (grid.ravel() for grid in np.meshgrid(azimuth, pitch, indexing="ij"))
    return np.stack([np.cos(p) * np.sin(a), np.cos(p) * np.cos(a), np.sin(p)], axis=1).astype(np.float32)
