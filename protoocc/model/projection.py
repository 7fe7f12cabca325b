"""Where a voxel query lands in each camera: the torch twin of `schemas.geometry`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from schemas.geometry import VoxelGrid

NEAREST_DEPTH_M = 0.1
"""A query closer to the camera plane than this is not seen."""


def query_centers(grid: VoxelGrid, query_shape: tuple[int, int, int]) -> Float[Tensor, "h w z 3"]:
    """Centres of the voxel queries, metres, ego frame: the extent of the grid cut into (h, w, z) equal cells."""
    axes = []
    for low, high, count in zip(grid.minimum_m, grid.maximum_m, query_shape, strict=True):
        steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        axes.append(low + steps * (high - low))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()


def project_points(
    points_ego: Float[Tensor, "n 3"],
    camera_from_ego: Float[Tensor, "*cameras 4 4"],
    image_from_camera: Float[Tensor, "*cameras 3 3"],
) -> tuple[Float[Tensor, "*cameras n 2"], Float[Tensor, "*cameras n"]]:
    """Pinhole projection of the same points into every camera.

    Args:
        points_ego: (n, 3) metres, ego frame.
        camera_from_ego: poses.
        image_from_camera: intrinsics, pixels.

    Returns:
        Continuous image coordinates (u, v) in pixels, and depth in metres. Where depth <= 0 coordinates mean nothing.
    """
    points_camera = points_ego @ camera_from_ego[..., :3, :3].mT + camera_from_ego[..., None, :3, 3]
    depth_m = points_camera[..., 2]
    homogeneous = points_camera @ image_from_camera.mT
    return homogeneous[..., :2] / depth_m[..., None], depth_m


def is_hit(
    uv_px: Float[Tensor, "*cameras n 2"], depth_m: Float[Tensor, "*cameras n"], image_size: tuple[int, int]
) -> Bool[Tensor, "*cameras n"]:
    """Whether a camera sees a point: deeper than 0.1 m and inside the unpadded image of (H, W) pixels."""
    height, width = image_size
    inside_u = (uv_px[..., 0] >= 0) & (uv_px[..., 0] < width)
    inside_v = (uv_px[..., 1] >= 0) & (uv_px[..., 1] < height)
    return (depth_m > NEAREST_DEPTH_M) & inside_u & inside_v


@dataclass(frozen=True)
class HitQueries:
    """Hit queries Q' of all cameras, camera after camera, without padding; n is their total number.

    Attributes:
        row: row of each hit in the queries flattened to (B*h*w*z).
        query: index of each hit among the h*w*z queries of its sample.
        reference: where each of its anchors lands, as a share (u, v) of the padded image, 0..1. A voxel query has one
            anchor, its centre.
        depth_m: how far each of its anchors lies along the optical axis of the camera.
        counts: hits K of each of the B*V cameras.
    """

    row: Int64[Tensor, " n"]
    query: Int64[Tensor, " n"]
    reference: Float[Tensor, "n anchors 2"]
    depth_m: Float[Tensor, "n anchors"]
    counts: list[int]


@torch.no_grad()
def find_hits(
    centers_ego: Float[Tensor, "q 3"],
    camera_from_ego: Float[Tensor, "B V 4 4"],
    image_from_camera: Float[Tensor, "B V 3 3"],
    *,
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
) -> HitQueries:
    """Hit queries of every camera of the batch; sizes are (H, W) in pixels."""
    uv_px, depth_m = project_points(centers_ego, camera_from_ego, image_from_camera)
    hit = is_hit(uv_px, depth_m, image_size).flatten(0, 1)
    camera, query = hit.nonzero(as_tuple=True)
    sample = torch.div(camera, camera_from_ego.shape[1], rounding_mode="floor")
    size = torch.tensor([padded_size[1], padded_size[0]], dtype=uv_px.dtype, device=uv_px.device)
    reference = uv_px.flatten(0, 1)[camera, query] / size
    hit_depth_m = depth_m.flatten(0, 1)[camera, query].unsqueeze(1)
    row = sample * len(centers_ego) + query
    return HitQueries(row, query, reference.unsqueeze(1), hit_depth_m, hit.sum(1).tolist())
