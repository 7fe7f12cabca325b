"""Pixels with depth as points in the world, and which cells of a grid hold one: what VoxFormer proposes from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from protoocc.batch import Batch
from schemas.errors import DataError
from schemas.geometry import VoxelGrid


def back_project(
    depth_m: Float[Tensor, "B V H W"],
    image_from_camera: Float[Tensor, "B V 3 3"],
    camera_from_ego: Float[Tensor, "B V 4 4"],
) -> tuple[Float[Tensor, "n 3"], Int64[Tensor, " n"]]:
    """Points of all pixels with depth, through the middle of each.

    Args:
        depth_m: along the camera's axis; 0 where there is none.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: poses.

    Returns:
        Points in metres, ego frame, and the sample that each belongs to.
    """
    sample, camera, row, column = (depth_m > 0).nonzero(as_tuple=True)
    depth = depth_m[sample, camera, row, column]
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row, dtype=torch.float32)], dim=-1).to(depth)
    rays = torch.linalg.inv(image_from_camera.to(depth))[sample, camera] @ pixel[..., None]
    points_camera = functional.pad(rays * depth[:, None, None], (0, 0, 0, 1), value=1.0)
    points_ego = torch.linalg.inv(camera_from_ego.to(depth))[sample, camera] @ points_camera
    return points_ego[:, :3, 0], sample


def occupied_cells(
    points_ego: Float[Tensor, "n 3"],
    sample: Int64[Tensor, " n"],
    grid: VoxelGrid,
    shape: tuple[int, int, int],
    samples: int,
) -> Bool[Tensor, "B X Y Z"]:
    """Cells that hold a point, the extent of the grid cut into ``shape`` cells; points outside count nowhere."""
    low, high = points_ego.new_tensor(grid.minimum_m), points_ego.new_tensor(grid.maximum_m)
    sizes = points_ego.new_tensor(shape)
    cell = ((points_ego - low) / (high - low) * sizes).floor()
    inside = ((cell >= 0) & (cell < sizes)).all(dim=1)
    x, y, z = cell[inside].long().unbind(1)
    occupied = torch.zeros(samples, *shape, dtype=torch.bool, device=points_ego.device)
    occupied[sample[inside], x, y, z] = True
    return occupied


@torch.no_grad()
def depth_cells(batch: Batch, grid: VoxelGrid, shape: tuple[int, int, int]) -> Bool[Tensor, "B X Y Z"]:
    """Cells of the scene where pixels with depth lie.

    Raises:
        DataError: the batch holds no depth.
    """
    if batch.input_depth_m is None:
        raise DataError(
            f"samples {batch.tokens} have no depth, which this network reads; pack them again with `protoocc pack "
            "--depth` (LiDAR) or `--depth-maps DIR` (your own), or train a VoxFormer with model.proposals=all"
        )
    points, sample = back_project(batch.input_depth_m, batch.image_from_camera, batch.camera_from_ego)
    return occupied_cells(points, sample, grid, shape, len(batch.tokens))
