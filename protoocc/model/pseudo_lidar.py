"""Pixels with depth as points in the world, and which cells of a grid hold one: what VoxFormer proposes from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from protoocc.batch import Batch
from schemas.errors import DataError
from schemas.geometry import VoxelGrid


def back_project(
    depth_m: Float[Tensor, "B V H W"],
    image_from_camera: Float[Tensor, "B V 3 3"],
    camera_from_ego: Float[Tensor, "B V 4 4"],
) -> tuple[Float[Tensor, "n 3"], Int64[Tensor, " n"]]:
    """Points of all pixels with depth, through the middle of each.

    Computed in float64, which autocast leaves alone: in 16 bits a point 50 m away would be 0.1 m off.

    Args:
        depth_m: along the camera's axis; 0 where there is none.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: poses.

    Returns:
        Points in metres, ego frame, and the sample that each belongs to.
    """
    sample, camera, row, column = (depth_m > 0).nonzero(as_tuple=True)
    depth = depth_m[sample, camera, row, column].double()
    pixel = torch.stack([column.double() + 0.5, row.double() + 0.5, torch.ones_like(depth)], dim=-1)
    poses = camera_from_ego.double()
    camera_from_image, ego_axes = _inverse(image_from_camera.double()), _inverse(poses[..., :3, :3])
    points_camera = (camera_from_image[sample, camera] @ pixel[..., None])[..., 0] * depth[:, None]
    moved = points_camera - poses[..., :3, 3][sample, camera]
    points_ego = (ego_axes[sample, camera] @ moved[..., None])[..., 0]
    return points_ego.to(depth_m.dtype), sample


def _inverse(matrices: Float[Tensor, "*any 3 3"]) -> Float[Tensor, "*any 3 3"]:
    """Inverse of 3x3 matrices by cross products of their rows: ONNX has no other."""
    first, second, third = matrices.unbind(-2)
    crossed = torch.linalg.cross(second, third)
    columns = torch.stack([crossed, torch.linalg.cross(third, first), torch.linalg.cross(first, second)], dim=-1)
    return columns / (first * crossed).sum(-1)[..., None, None]


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
