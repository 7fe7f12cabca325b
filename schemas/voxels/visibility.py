"""What cameras see of a voxel grid: rays spread over whole images, each to the first occupied voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float64
from numba import njit

from schemas.geometry import Pose, VoxelGrid
from schemas.voxels.walk import enter_ray, enter_segment, is_inside, step

_ROW_DENSITY: Final = 5
"""Rays are so many times denser from row to row than side by side: ground is seen at a flat angle, so the rays of
neighbouring rows lie far apart on it. From a camera 1.6 m above the ground of `OCC3D_GRID`, with 1.5 rays per voxel,
they are less than a voxel apart up to sqrt(5 * 1.6 * 1.5 * 56.6) = 26 m."""


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


@njit(cache=True, nogil=True)
@no_type_check
def _look(visible, occupied, origin, directions):
    shape = occupied.shape
    for ray in range(len(directions)):
        voxel, times, course = enter_ray(origin, directions[ray], shape)
        while is_inside(voxel, shape):
            visible[voxel] = True
            if occupied[voxel]:
                break
            voxel, times = step(voxel, times, course)


def mark_visible(
    visible: Bool[np.ndarray, "X Y Z"],
    occupied: Bool[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    directions: Float64[np.ndarray, "r 3"],
) -> None:
    """Marks the voxels that rays from one point see: all up to and including the first occupied one.

    Args:
        visible: changed in place.
        occupied: what stops a ray.
        origin: (3,) voxel units; may lie outside the grid.
        directions: (R, 3) unit vectors in the grid's axes.

    Source: Occ3D (arXiv 2304.14365), algorithm 3 and section 3.3.2.
    """
    _look(visible, occupied, origin, directions)


@njit(cache=True, nogil=True)
@no_type_check
def _pass(passed, origin, ends, with_end):
    shape = passed.shape
    for ray in range(len(ends)):
        voxel, times, course = enter_segment(origin, ends[ray], shape)
        while is_inside(voxel, shape):
            is_last = voxel == course[0]
            if with_end[ray] or not is_last:
                passed[voxel] = True
            if is_last:
                break
            voxel, times = step(voxel, times, course)


def mark_passed(
    passed: Bool[np.ndarray, "X Y Z"],
    origin: Float64[np.ndarray, " 3"],
    ends: Float64[np.ndarray, "r 3"],
    with_end: Bool[np.ndarray, " r"],
) -> None:
    """Marks the voxels that segments from one point pass.

    Args:
        passed: changed in place.
        origin: (3,) voxel units; may lie outside the grid.
        ends: (R, 3) voxel units; may lie outside the grid.
        with_end: whether each segment's last voxel counts.
    """
    _pass(passed, origin, ends, with_end)
