"""Instance queries and their places: learned points in the image, and behind them the cells of the scene."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from protoocc.batch import Batch
from schemas.geometry import VoxelGrid

_LEAST_DEPTH_M: Final = 1.0
"""Depth of an instance whose camera measured nothing and does not look at the scene's middle."""


class Instances(nn.Module):
    """Learned queries, alike for every camera, each with a learned point of the image."""

    def __init__(self, count: int, channels: int) -> None:
        """Queries and logits of points of deviation 1, as in the host."""
        super().__init__()
        self.table = nn.Parameter(torch.randn(count, channels))
        self.points = nn.Parameter(torch.randn(count, 2))

    def places(self) -> Float[Tensor, "q 2"]:
        """(u, v) as a share of the image without its padding, 0..1."""
        return self.points.sigmoid()


@torch.no_grad()
def instance_cells(
    places: Float[Tensor, "q 2"], batch: Batch, grid: VoxelGrid, shape: tuple[int, int, int], *, reads_depth: bool
) -> Int64[Tensor, "B k 3"]:
    """Cell of the scene that each instance of each camera points at, clamped into the scene; k = V * q.

    An instance lies as deep as its pixel or, where that has no depth, the nearest pixel that has some. Without any, it
    lies as deep as the middle of the scene.

    Args:
        places: (u, v) as a share of the image, the same for every camera.
        batch: images, calibration and perhaps depth.
        grid: of the scene.
        shape: cells (h, w, z) of the scene.
        reads_depth: false ignores depth.
    """
    height, width = batch.images.shape[-2:]
    pixel = places * places.new_tensor([width, height])
    cameras = batch.camera_from_ego.flatten(0, 1).double()
    depth = _middle_depth(cameras, grid)[:, None].repeat(1, len(places))
    if reads_depth and batch.input_depth_m is not None:
        maps = batch.input_depth_m.flatten(0, 1)
        depth = torch.stack([_depth_at(pixel, image, own) for image, own in zip(maps, depth, strict=True)])
    rays = torch.cat([pixel, torch.ones_like(pixel[:, :1])], dim=1).double()
    camera_from_image = torch.linalg.inv(batch.image_from_camera.flatten(0, 1).double())
    points_camera = (rays @ camera_from_image.mT) * depth[..., None]
    ego_from_camera = torch.linalg.inv(cameras)
    points_ego = points_camera @ ego_from_camera[:, :3, :3].mT + ego_from_camera[:, None, :3, 3]
    low, high = points_ego.new_tensor(grid.minimum_m), points_ego.new_tensor(grid.maximum_m)
    sizes = torch.tensor(shape, device=places.device)
    cell = ((points_ego - low) / (high - low) * sizes).floor().long()
    inside = torch.minimum(cell.clamp_min(0), sizes - 1)
    return inside.view(len(batch.tokens), -1, 3)


def _middle_depth(camera_from_ego: Float[Tensor, "cameras 4 4"], grid: VoxelGrid) -> Float[Tensor, " cameras"]:
    """Depth of the middle of the scene in each camera."""
    middle = [(low + high) / 2 for low, high in zip(grid.minimum_m, grid.maximum_m, strict=True)]
    depth = camera_from_ego[:, 2] @ camera_from_ego.new_tensor([*middle, 1.0])
    return depth.clamp_min(_LEAST_DEPTH_M)


def _depth_at(
    pixel: Float[Tensor, "q 2"], depth_m: Float[Tensor, "H W"], otherwise: Float[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Depth of the pixel around each point or of the nearest one with depth; ``otherwise`` where none has any."""
    rows, columns = (depth_m > 0).nonzero(as_tuple=True)
    if len(rows) == 0:
        return otherwise
    height, width = depth_m.shape
    column = pixel[:, 0].floor().long().clamp(0, width - 1)
    row = pixel[:, 1].floor().long().clamp(0, height - 1)
    found = depth_m[row, column].to(otherwise.dtype)
    missing = (found <= 0).nonzero().squeeze(1)
    if len(missing):
        centers = torch.stack([columns, rows], dim=1) + 0.5
        nearest = torch.cdist(pixel[missing], centers.to(pixel.dtype)).argmin(dim=1)
        found[missing] = depth_m[rows[nearest], columns[nearest]].to(otherwise.dtype)
    return found
