"""What a camera's rays meet first: classes of voxels, and annotated boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from schemas.geometry import Pose, VoxelGrid, invert_rigid, transform_points
from schemas.records import BoxRecord, SampleRecord
from schemas.voxels.first_hit import first_hits

_CORNERS: Final = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_NEAR_M: Final = 0.1


@dataclass(frozen=True)
class CameraRays:
    """Rays of one camera at a keyframe, ego frame, metres; row by row over its image."""

    origin: Float64[np.ndarray, " 3"]
    directions: Float64[np.ndarray, "r 3"]
    """Unit vectors."""
    pixels: Float64[np.ndarray, "r 2"]
    """(u, v) of each ray in the camera file's image."""
    shape: tuple[int, int]
    """Rows and columns of rays."""
    ego_from_camera: Pose
    image_from_camera: Float64[np.ndarray, "3 3"]


def camera_rays(record: SampleRecord, channel: str, step_px: float) -> CameraRays:
    """Rays through the middles of squares of ``step_px`` pixels that tile the image."""
    camera = record.cameras[channel]
    columns, rows = int(camera.width // step_px), int(camera.height // step_px)
    u_px, v_px = ((np.arange(count) + 0.5) * step_px for count in (columns, rows))
    pixels = np.stack(np.meshgrid(u_px, v_px), axis=-1).reshape(-1, 2)
    intrinsics = np.array(camera.intrinsics, dtype=np.float64)
    rays = np.linalg.solve(intrinsics, np.column_stack([pixels, np.ones(len(pixels))]).T).T
    ego_from_camera = invert_rigid(record.camera_from_ego(channel))
    directions = rays / np.linalg.norm(rays, axis=1, keepdims=True) @ ego_from_camera[:3, :3].T
    return CameraRays(
        ego_from_camera[:3, 3], np.ascontiguousarray(directions), pixels, (rows, columns), ego_from_camera, intrinsics
    )


def labels_along(
    semantics: UInt8[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    origin: Float64[np.ndarray, " 3"],
    directions: Float64[np.ndarray, "r 3"],
    *,
    free: int,
) -> tuple[UInt8[np.ndarray, " r"], Float64[np.ndarray, " r"]]:
    """Label of the first occupied voxel of each ray, ``free`` where there is none, and its distance in metres.

    Args:
        semantics: labels.
        grid: of ``semantics``.
        origin: (3,) metres, frame of the grid.
        directions: (R, 3) unit vectors, frame of the grid.
        free: label that lets rays pass.
    """
    start = (origin - np.array(grid.minimum_m)) / grid.voxel_size_m
    hits = first_hits(semantics != free, start[None], directions)
    labels = np.where(hits.is_hit, semantics[tuple(np.moveaxis(hits.voxels, -1, 0))], np.uint8(free))
    return labels[0], np.where(hits.is_hit, hits.enters, np.inf)[0] * grid.voxel_size_m


def boxes_along(
    view: CameraRays, boxes: list[BoxRecord], ego_from_global: Pose
) -> tuple[Int64[np.ndarray, " r"], Float64[np.ndarray, "r 2"]]:
    """Nearest box of each ray.

    Returns:
        (R,) position in ``boxes``, -1 where the ray meets none, and (R, 2) distances at which it enters and leaves it.
    """
    owner = np.full(len(view.directions), -1, dtype=np.int64)
    span_m = np.full((len(view.directions), 2), np.inf)
    for number, box in enumerate(boxes):
        ego_from_box = ego_from_global @ box.global_from_box.matrix
        half_m = np.array(box.size_lwh_m) / 2
        near = _may_meet(view, transform_points(ego_from_box, _CORNERS * half_m))
        enter_m, leave_m = _slabs(view, invert_rigid(ego_from_box), half_m, near)
        is_first = (enter_m < leave_m) & (leave_m > 0) & (enter_m < span_m[near, 0])
        owner[near[is_first]] = number
        span_m[near[is_first]] = np.column_stack([np.maximum(enter_m, 0.0), leave_m])[is_first]
    return owner, span_m


def _may_meet(view: CameraRays, corners_ego: Float64[np.ndarray, "8 3"]) -> Int64[np.ndarray, " m"]:
    """Rays within the rectangle around a box's corners; all of them where a corner lies beside or behind the camera."""
    corners = transform_points(invert_rigid(view.ego_from_camera), corners_ego)
    if corners[:, 2].max() < _NEAR_M:
        return np.zeros(0, dtype=np.int64)
    if corners[:, 2].min() < _NEAR_M:
        return np.arange(len(view.pixels))
    uv_px = corners @ view.image_from_camera.T
    uv_px = uv_px[:, :2] / uv_px[:, 2:]
    inside = (view.pixels >= uv_px.min(axis=0)) & (view.pixels <= uv_px.max(axis=0))
    return np.flatnonzero(inside.all(axis=1))


def _slabs(
    view: CameraRays, box_from_ego: Pose, half_m: Float64[np.ndarray, " 3"], rays: Int64[np.ndarray, " m"]
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Distances at which rays enter and leave a box (a ray that misses it leaves before it enters)."""
    origin = transform_points(box_from_ego, view.origin[None])[0]
    directions = view.directions[rays] @ box_from_ego[:3, :3].T
    directions = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    first, second = (-half_m - origin) / directions, (half_m - origin) / directions
    return np.minimum(first, second).max(axis=1), np.maximum(first, second).min(axis=1)
