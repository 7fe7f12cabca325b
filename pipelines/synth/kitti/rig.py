"""The vehicle of KITTI: a 64-beam LiDAR 1.73 m above the road, four cameras in front of it, and `calib.txt`.

`calib.txt` has P0..P3 (image from the frame of camera 0, 3x4) and Tr (camera 0 from LiDAR, 3x4). Camera 2, the left
colour camera, stands 6 cm left of camera 0, which the fourth column of P2 holds: P2 = K [I | t].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pipelines.synth.rig import Beams, Mount, quaternion
from schemas.geometry import Pose, invert_rigid

CAMERA: Final = "image_2"
LIDAR_HEIGHT_M: Final = 1.73
HDL_64_LIMITS_DEG: Final = (-24.8, 2.0)
EGO_FROM_LIDAR: Final[Pose] = np.array(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, LIDAR_HEIGHT_M], [0.0, 0.0, 0.0, 1.0]]
)
_CAMERA_FROM_LIDAR_AXES: Final = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
_WIDTH_PX: Final = 1241
_FOCAL_PX: Final = 718.856
_CENTER_PX: Final = (607.193, 185.216)
_BASELINE_M: Final = 0.537
"""From the left to the right camera of a pair."""


def hdl_64(azimuths: int) -> Beams:
    """The LiDAR of KITTI, with so many directions of each beam."""
    return Beams(64, azimuths, HDL_64_LIMITS_DEG)


@dataclass(frozen=True)
class Calibration:
    """What `calib.txt` holds, rounded as it is there."""

    projections: tuple[Float[np.ndarray, "3 4"], ...]
    """P0, P1, P2, P3."""
    camera_from_lidar: Pose
    """Tr."""

    @property
    def text(self) -> str:
        """`calib.txt`."""
        rows = [(f"P{number}", matrix) for number, matrix in enumerate(self.projections)]
        rows.append(("Tr", self.camera_from_lidar[:3]))
        return "".join(f"{name}: {numbers(matrix)}\n" for name, matrix in rows)

    def mount(self, image_size: tuple[int, int]) -> Mount:
        """Camera 2 on the vehicle.

        Args:
            image_size: width and height, pixels.
        """
        projection = self.projections[2]
        camera2_from_camera0 = np.eye(4)
        camera2_from_camera0[:3, 3] = np.linalg.inv(projection[:, :3]) @ projection[:, 3]
        pose = EGO_FROM_LIDAR @ invert_rigid(camera2_from_camera0 @ self.camera_from_lidar)
        x, y, z = (float(value) for value in pose[:3, 3])
        return Mount(CAMERA, (x, y, z), quaternion(pose[:3, :3]), projection[:, :3].copy(), image_size, 0)


def numbers(matrix: Float[np.ndarray, "3 4"]) -> str:
    """Twelve numbers, row by row, as KITTI's text files have them."""
    return " ".join(f"{value:.12e}" for value in matrix.ravel())


def _rounded(matrix: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "3 4"]:
    return np.array([float(value) for value in numbers(matrix).split()]).reshape(3, 4)


def build_calibration(width: int, generator: np.random.Generator) -> Calibration:
    """Each vehicle is built a little differently: 5 pixels of 1241 in focal length, 0.3 degrees, 2 mm.

    Args:
        width: image width, pixels; intrinsics scale with it.
        generator: source of the small differences.
    """
    scale = width / _WIDTH_PX
    focal_px = (_FOCAL_PX + generator.normal(0.0, 5.0)) * scale
    center = generator.normal(_CENTER_PX, 3.0) * scale
    intrinsics = np.array([[focal_px, 0.0, center[0]], [0.0, focal_px, center[1]], [0.0, 0.0, 1.0]])
    left = np.array([0.06, 0.0, 0.004]) + generator.normal(0.0, 0.002, 3)
    right = np.array([-_BASELINE_M, 0.0, 0.0])
    shifts = (np.zeros(3), right, left, left + right)
    projections = tuple(_rounded(intrinsics @ np.column_stack([np.eye(3), shift])) for shift in shifts)
    error = Rotation.from_rotvec(np.radians(generator.normal(0.0, 0.3, 3))).as_matrix()
    translation = np.array([-0.005, -0.075, -0.30]) + generator.normal(0.0, 0.002, 3)
    top = _rounded(np.column_stack([error @ _CAMERA_FROM_LIDAR_AXES, translation]))
    return Calibration(projections, np.vstack([top, [0.0, 0.0, 0.0, 1.0]]))
