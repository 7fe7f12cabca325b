"""Flips that stay exact: a point before and after lands on the same pixel and in the same voxel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor

from protoocc.batch import Batch
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid

Axis = Literal["x", "y"]
"""Axis of the ego frame whose direction is turned round."""

PIXELS: Final = ("images", "past_images", "segment_id", "depth_m", "pixel_classes", "input_depth_m")
"""Fields of a batch with image columns as their last axis."""
INTRINSICS: Final = ("image_from_camera", "past_image_from_camera")
POSES: Final = ("camera_from_ego", "past_camera_from_ego")
MOTIONS: Final = ("past_from_ego",)
VOXELS: Final = ("semantics", "mask_camera", "mask_lidar")
"""Fields of a batch with x, y, z as their last axes."""

_ASYMMETRY: Final = 1e-6
"""How far the middle of a grid may lie from the vehicle, in voxels."""


def flip_images(batch: Batch) -> Batch:
    """All images mirrored left to right, and their intrinsics with them; the scene stays as it is.

    u becomes W - u in continuous image coordinates: K' = F K with F = [[-1, 0, W], [0, 1, 0], [0, 0, 1]], so the focal
    length along u is negative afterwards.
    """
    mirror = torch.tensor([[-1.0, 0.0, batch.images.shape[-1]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return _changed(
        batch, {PIXELS: lambda pixels: pixels.flip(-1), INTRINSICS: lambda matrices: mirror.to(matrices) @ matrices}
    )


def mirror_scene(batch: Batch, axis: Axis) -> Batch:
    """The mirror image of the world along one axis of the ego frame, as the same cameras would have seen it.

    With S the mirror of the ego frame and M = diag(-1, 1, 1) that of a camera, a camera at T = ``camera_from_ego``
    stands at M T S, which is a rigid pose again; its image is flipped, its intrinsics are F K M (see `flip_images`),
    with a positive focal length. Labels and masks are flipped along the axis, motions become S P S. Cameras keep their
    place in the batch: the left one looks to the right afterwards, as its pose says.

    Args:
        batch: of a grid that is symmetric along the axis, see `check_symmetric`.
        axis: x mirrors front to back, y left to right.
    """
    scene = torch.tensor([-1.0, 1.0, 1.0, 1.0] if axis == "x" else [1.0, -1.0, 1.0, 1.0]).diag()
    camera = torch.tensor([-1.0, 1.0, 1.0, 1.0]).diag()
    voxel_axis = -3 if axis == "x" else -2
    return _changed(
        flip_images(batch),
        {
            INTRINSICS: lambda matrices: matrices @ camera[:3, :3].to(matrices),
            POSES: lambda poses: camera.to(poses) @ poses @ scene.to(poses),
            MOTIONS: lambda motions: scene.to(motions) @ motions @ scene.to(motions),
            VOXELS: lambda voxels: voxels.flip(voxel_axis),
        },
    )


def check_symmetric(grid: VoxelGrid, axis: Axis) -> None:
    """Refuses to mirror labels of a grid whose middle is not the vehicle.

    Raises:
        ConfigError: the grid reaches further on one side, so that a mirrored voxel is none of its voxels.
    """
    place = 0 if axis == "x" else 1
    low, high = grid.minimum_m[place], grid.maximum_m[place]
    if abs(low + high) > _ASYMMETRY * grid.voxel_size_m:
        raise ConfigError(
            f"data.augment.flip_{axis} mirrors the scene along {axis}, but the grid reaches from {low:g} to {high:g} m "
            f"there: mirrored labels would not fit it. Set data.augment.flip_{axis}=0, or use a grid whose middle is "
            "the vehicle"
        )


def _changed(batch: Batch, changes: Mapping[tuple[str, ...], Callable[[Tensor], Tensor]]) -> Batch:
    """The batch with its fields of each kind changed; fields that it does not have stay away."""
    values = {name: (getattr(batch, name), change) for names, change in changes.items() for name in names}
    changed = {name: change(value) for name, (value, change) in values.items() if value is not None}
    return dataclasses.replace(batch, **changed)  # type: ignore[arg-type]
