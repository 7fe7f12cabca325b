"""Depth and class of image cells from the occupancy labels: the first occupied voxel along the ray of each cell."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from protoocc.batch import Batch
from protoocc.pixels import PixelOutput
from schemas.geometry import VoxelGrid

STEPS_PER_VOXEL = 2
"""A ray is asked this often in each length of a voxel's edge; it may miss what it cuts for less."""
STEPS_PER_TURN = 32
UNKNOWN = 255
"""Class of pixels without a target; no table has so many classes."""


def first_voxels(
    pixels: PixelOutput, batch: Batch, index: int, stride: int
) -> tuple[UInt8[Tensor, "V H W"], Float[Tensor, "V H W"]]:
    """Class and depth at the middle pixel of each cell, unknown at all others.

    Where the first voxel that is not free is of unknown class, or the ray leaves the grid, nothing is known.

    Args:
        pixels: says the grid and which class is free.
        batch: with labels.
        index: which sample of it.
        stride: pixels per cell.

    Returns:
        Class, `UNKNOWN` where unknown; depth along the camera's axis in metres, 0 where unknown.
    """
    if batch.semantics is None:
        raise ValueError("first_voxels needs labels")
    height, width = batch.images.shape[-2:]
    device = batch.semantics.device
    rows = torch.arange(stride // 2, height, stride, device=device)
    columns = torch.arange(stride // 2, width, stride, device=device)
    origins, directions = _rays(batch, index, rows, columns)
    labels = batch.semantics[index].long()
    found, depth = _march(labels, pixels.grid, pixels.free, origins, directions)
    classes = torch.full((batch.images.shape[1], height, width), UNKNOWN, dtype=torch.uint8, device=device)
    depth_m = torch.zeros(classes.shape, device=device)
    place = (slice(None), rows[:, None], columns)
    classes[place] = found.view(len(classes), len(rows), len(columns)).to(torch.uint8)
    depth_m[place] = depth.view(len(classes), len(rows), len(columns))
    return classes, depth_m


def _rays(
    batch: Batch, index: int, rows: Int64[Tensor, " h"], columns: Int64[Tensor, " w"]
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]]:
    """Start of each ray and the way it takes for each metre of depth, ego frame, camera after camera."""
    v, u = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
    pixel = torch.stack([u, v, torch.ones_like(u)], dim=-1).flatten(0, 1)
    ego_from_camera = torch.linalg.inv(batch.camera_from_ego[index].double())
    camera_from_image = torch.linalg.inv(batch.image_from_camera[index].double())
    directions = pixel.double() @ (ego_from_camera[:, :3, :3] @ camera_from_image).mT
    origins = ego_from_camera[:, None, :3, 3].expand_as(directions)
    return origins.flatten(0, 1).float(), directions.flatten(0, 1).float()


def _march(
    labels: Int64[Tensor, "X Y Z"],
    grid: VoxelGrid,
    free: int,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
) -> tuple[Int64[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Class of the first voxel of each ray that is not free, and its depth; `UNKNOWN` and 0 for none or an unknown one.

    Rays go on in lengths of `STEPS_PER_TURN` steps, as far as the farthest corner of the grid.
    """
    step_m = grid.voxel_size_m / STEPS_PER_VOXEL
    corners = torch.cartesian_prod(*torch.tensor([grid.minimum_m, grid.maximum_m]).T).to(origins)
    reach_m = float((corners[:, None] - origins).norm(dim=-1).max())
    found = torch.full((len(origins),), UNKNOWN, dtype=torch.int64, device=labels.device)
    depth = torch.zeros(len(origins), device=labels.device)
    waiting = torch.arange(len(origins), device=labels.device)
    speed = directions.norm(dim=-1)
    for start in range(1, math.ceil(reach_m / step_m) + 1, STEPS_PER_TURN):
        steps = torch.arange(start, start + STEPS_PER_TURN, device=labels.device)
        ahead = steps * step_m / speed[waiting][:, None]
        met = _labels_at(
            labels, grid, free, origins[waiting][:, None] + directions[waiting][:, None] * ahead[..., None]
        )
        is_hit, first = (met != free).max(dim=1)
        hits = waiting[is_hit]
        found[hits] = met.gather(1, first[:, None])[is_hit, 0]
        depth[hits] = ahead.gather(1, first[:, None])[is_hit, 0]
        waiting = waiting[~is_hit]
    return found, torch.where(found < UNKNOWN, depth, 0.0)


def _labels_at(
    labels: Int64[Tensor, "X Y Z"], grid: VoxelGrid, free: int, points_ego: Float[Tensor, "rays steps 3"]
) -> Int64[Tensor, "rays steps"]:
    """Label of the voxel around each point; free outside of the grid."""
    cell = ((points_ego - points_ego.new_tensor(grid.minimum_m)) / grid.voxel_size_m).floor().long()
    inside = ((cell >= 0) & (cell < torch.tensor(grid.shape, device=labels.device))).all(-1)
    x, y, z = torch.where(inside[..., None], cell, 0).unbind(-1)
    return torch.where(inside, labels[x, y, z], free)
