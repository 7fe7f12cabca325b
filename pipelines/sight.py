"""What cameras see of a voxel grid: rays spread over whole images, each to the first occupied voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64

from pipelines.raycast import mark_visible
from schemas.geometry import Pose, VoxelGrid

_ROW_DENSITY: Final = 5


@dataclass(frozen=True)
class View:
    """One camera at its exposure."""

    image_from_camera: Float[np.ndarray, "3 3"]
    """Intrinsics, pixels."""
    width_px: int
    height_px: int
    ego_from_camera: Pose
    """In the frame of the grid; the vehicle's motion between LiDAR and camera is inside."""


def see_voxels(
    grid: VoxelGrid, occupied: Bool[np.ndarray, "X Y Z"], views: Sequence[View], rays_per_voxel: float
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that whole camera images see: up to and including the first occupied one of each ray.

    Args:
        grid: of ``occupied``.
        occupied: what stops a ray.
        views: cameras.
        rays_per_voxel: rays across a voxel at the grid's farthest corner, side by side.

    Source: Occ3D (arXiv 2304.14365), algorithm 3 and section 3.3.2.
    """
    visible = np.zeros(grid.shape, dtype=bool)
    for view in views:
        mark_visible(visible, occupied, *voxel_rays(grid, view, rays_per_voxel))
    return visible


def voxel_rays(
    grid: VoxelGrid, view: View, rays_per_voxel: float
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "r 3"]]:
    """Origin of a camera's rays, voxel units, and their directions in the grid's axes, as `image_rays` spreads them.

    Args:
        grid: whose farthest corner sets the spacing.
        view: the camera.
        rays_per_voxel: rays across a voxel at that corner, side by side.
    """
    reach_m = float(np.abs([grid.minimum_m[:2], grid.maximum_m[:2]]).max() * np.sqrt(2))
    focal_px = float(max(view.image_from_camera[0, 0], view.image_from_camera[1, 1]))
    spacing_px = focal_px * grid.voxel_size_m / reach_m / rays_per_voxel
    origin = (view.ego_from_camera[:3, 3] - np.array(grid.minimum_m)) / grid.voxel_size_m
    return origin, image_rays(view, spacing_px) @ view.ego_from_camera[:3, :3].T


def image_rays(view: View, spacing_px: float) -> Float64[np.ndarray, "r 3"]:
    """Unit vectors, camera frame, spread evenly over the whole image, `_ROW_DENSITY` times as dense from row to row.

    The spacing belongs to the voxels, not to the pixels: masks do not depend on the size of the image files, and rays
    that graze the ground still meet most voxels of it. 1.5 rays per voxel are one in 6 x 1.2 pixels of nuScenes.
    """
    u_px = _middles(view.width_px, spacing_px)
    v_px = _middles(view.height_px, spacing_px / _ROW_DENSITY)
    u, v = (axis.ravel() for axis in np.meshgrid(u_px, v_px))
    rays = np.column_stack([u, v, np.ones(len(u))]) @ np.linalg.inv(view.image_from_camera).T
    return np.ascontiguousarray(rays / np.sqrt((rays * rays).sum(axis=1, keepdims=True)))


def _middles(length_px: int, spacing_px: float) -> Float64[np.ndarray, " n"]:
    """Middles of equal parts of ``length_px`` that are at most ``spacing_px`` long."""
    count = int(np.ceil(length_px / spacing_px))
    return (np.arange(count) + 0.5) * (length_px / count)
