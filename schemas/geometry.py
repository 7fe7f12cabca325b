"""Axes, frames, units and the voxel grid: the one place that defines them.

Axis letters: B batch, V camera (view), C channel, H W image rows and columns, X Y Z voxels, N points.

Frames, all right-handed, metres:
    ego     the vehicle at the time of the LiDAR keyframe: x forward, y left, z up (Occ3D labels live here); in logs of
            cameras alone, at the time of the image nearest to the keyframe's
    lidar   the LiDAR itself; camera: x right, y down, z forward; global: the map
    A pose is named ``dst_from_src`` and is a 4x4 float64 matrix; inner names of a product must meet.

Image coordinates (u right, v down) are continuous: (0, 0) is the outer corner of the first pixel, pixel i covers
[i, i+1). nuScenes intrinsics are read in this convention, so a resize by s multiplies u and v by s exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import Field, model_validator

from schemas.settings import Frozen

Pose = Float[np.ndarray, "4 4"]


class VoxelGrid(Frozen):
    """An axis-aligned voxel grid, in the ego frame unless it says otherwise.

    Convention: cell i of an axis covers [minimum + i*size, minimum + (i+1)*size); axis 0 = x, 1 = y, 2 = z.
    """

    minimum_m: tuple[float, float, float] = Field(description="Lower corner (x, y, z), metres, frame of the grid.")
    voxel_size_m: float = Field(gt=0, description="Edge of a voxel, metres.")
    shape: tuple[int, int, int] = Field(description="Number of voxels along x, y, z.")
    frame: Literal["ego", "lidar"] = Field(
        "ego", description="Frame of its axes; lidar: the sensor's own at the keyframe (imported label sets only)."
    )

    @model_validator(mode="after")
    def _check(self) -> VoxelGrid:
        if min(self.shape) < 1:
            raise ValueError(f"grid shape {self.shape} must have at least one voxel along each axis")
        return self

    @property
    def maximum_m(self) -> tuple[float, float, float]:
        """Upper corner (x, y, z), metres, frame of the grid; the corner itself lies outside."""
        x, y, z = (lo + n * self.voxel_size_m for lo, n in zip(self.minimum_m, self.shape, strict=True))
        return (x, y, z)

    @property
    def looks_ahead(self) -> bool:
        """Whether the grid begins at the vehicle (x from 0) instead of lying around it."""
        return self.minimum_m[0] == 0

    @property
    def voxel_from_metres(self) -> Float64[np.ndarray, "4 4"]:
        """Affine map from metres in the frame of the grid to voxel units: voxel i of an axis covers [i, i + 1)."""
        matrix = np.diag([1 / self.voxel_size_m] * 3 + [1.0])
        matrix[:3, 3] = -np.asarray(self.minimum_m) / self.voxel_size_m
        return matrix

    def voxel_index(self, points: Float[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n 3"]:
        """Cell that contains each point: floor((p - minimum) / size).

        Args:
            points: (N, 3) metres, frame of the grid.

        Returns:
            (N, 3) indices; points outside get negative or too large ones, drop them with `contains`.
        """
        scaled = (points - np.asarray(self.minimum_m)) / self.voxel_size_m
        return np.floor(scaled).astype(np.int64)

    def contains(self, index: Int64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each index lies inside the grid."""
        inside: Bool[np.ndarray, " n"] = np.all((index >= 0) & (index < np.asarray(self.shape)), axis=1)
        return inside

    def centers(self) -> Float[np.ndarray, "X Y Z 3"]:
        """Centre of every voxel, metres, frame of the grid: minimum + (i + 0.5) * size."""
        axes = [lo + (np.arange(n) + 0.5) * self.voxel_size_m for lo, n in zip(self.minimum_m, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


OCC3D_GRID = VoxelGrid(minimum_m=(-40.0, -40.0, -1.0), voxel_size_m=0.4, shape=(200, 200, 16))
"""The grid of Occ3D-nuScenes: x, y in [-40, 40), z in [-1, 5.4) metres."""

SEMANTICKITTI_GRID = VoxelGrid(minimum_m=(0.0, -25.6, -2.0), voxel_size_m=0.2, shape=(256, 256, 32))
"""The grid of SemanticKITTI's scene completion: x in [0, 51.2), y in [-25.6, 25.6), z in [-2, 4.4) metres. Its
ego frame is that of the LiDAR."""

_KITTI_LIDAR_M: Final = 1.73
"""Height of KITTI's LiDAR above the road (Geiger et al., The KITTI dataset, figure 3)."""


def road_height_m(grid: VoxelGrid) -> float:
    """Height of the road under the vehicle in the ego frame of a grid, metres.

    0, because the ego frame stands on the road, but where it is that of the LiDAR: grids of any fineness whose lower
    corner is SemanticKITTI's.
    """
    return -_KITTI_LIDAR_M if grid.minimum_m == SEMANTICKITTI_GRID.minimum_m else 0.0


def rigid_transform(rotation_wxyz: Sequence[float], translation_m: Sequence[float]) -> Pose:
    """Pose from a quaternion and a translation, as nuScenes tables store them.

    Args:
        rotation_wxyz: quaternion (w, x, y, z); normalised here.
        translation_m: (x, y, z) metres.

    Returns:
        4x4 ``dst_from_src``.

    Raises:
        ValueError: the quaternion has no length.
    """
    quaternion = np.asarray(rotation_wxyz, dtype=np.float64)
    length = math.sqrt(quaternion.dot(quaternion))
    if quaternion.shape != (4,) or not 1e-9 <= length < math.inf:
        raise ValueError(f"rotation {rotation_wxyz} is no quaternion (w, x, y, z)")
    w, x, y, z = (quaternion / length).tolist()
    t_x, t_y, t_z = translation_m
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), t_x],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), t_y],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), t_z],
            [0.0, 0.0, 0.0, 1.0],
        ],
        dtype=np.float64,
    )


def invert_rigid(dst_from_src: Pose) -> Pose:
    """``src_from_dst`` of a rigid pose: transpose of the rotation, no general inverse."""
    inverse = np.eye(4)
    inverse[:3, :3] = dst_from_src[:3, :3].T
    inverse[:3, 3] = -dst_from_src[:3, :3].T @ dst_from_src[:3, 3]
    return inverse


def transform_points(dst_from_src: Pose, points_src: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Points of the source frame, (N, 3) metres, expressed in the destination frame."""
    return points_src @ dst_from_src[:3, :3].T + dst_from_src[:3, 3]


def project_points(
    image_from_camera: Float[np.ndarray, "3 3"], points_camera: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Pinhole projection.

    Args:
        image_from_camera: 3x3 intrinsics, pixels.
        points_camera: (N, 3) metres, camera frame.

    Returns:
        (N, 2) continuous image coordinates (u, v) in pixels and (N,) depth in metres. Points with depth <= 0 lie behind
        the camera; their coordinates mean nothing (depth 0 gives inf or nan).
    """
    depth_m = points_camera[:, 2]
    homogeneous = points_camera @ image_from_camera.T
    with np.errstate(divide="ignore", invalid="ignore"):
        uv_px = homogeneous[:, :2] / depth_m[:, None]
    return uv_px, depth_m
