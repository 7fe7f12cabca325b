"""Where a voxel query lands in each camera: the torch twin of `schemas.geometry`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from schemas.geometry import VoxelGrid

NEAREST_DEPTH_M = 0.1
"""A query closer to the camera plane than this is not seen."""

OUTSIDE = -8.0
"""Place (u, v) of an anchor that a camera does not see, in image sizes: far from every sampling point."""


def query_centers(grid: VoxelGrid, query_shape: tuple[int, int, int]) -> Float[Tensor, "h w z 3"]:
    """Centres of the voxel queries, metres, ego frame: the extent of the grid cut into (h, w, z) equal cells."""
    axes = []
    for low, high, count in zip(grid.minimum_m, grid.maximum_m, query_shape, strict=True):
        steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        axes.append(low + steps * (high - low))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()


def query_anchors(grid: VoxelGrid, query_shape: tuple[int, int, int], heights: int) -> Float[Tensor, "h w z anchors 3"]:
    """Points through which a query looks at the images: the centres of its cell cut into equal heights."""
    h, w, z = query_shape
    return query_centers(grid, (h, w, z * heights)).unflatten(2, (z, heights))


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
        cells: hits of the lifted cells of all queries; None for a network that lifts nothing.
    """

    row: Int64[Tensor, " n"]
    query: Int64[Tensor, " n"]
    reference: Float[Tensor, "n anchors 2"]
    depth_m: Float[Tensor, "n anchors"]
    counts: list[int]
    cells: HitQueries | None = None


@torch.no_grad()
def find_hits(
    anchors_ego: Float[Tensor, "q anchors 3"],
    camera_from_ego: Float[Tensor, "B V 4 4"],
    image_from_camera: Float[Tensor, "B V 3 3"],
    *,
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
) -> HitQueries:
    """Hit queries of every camera of the batch; sizes are (H, W) in pixels.

    A camera hits a query if it sees one of its anchors. Anchors that it does not see get a place outside the image,
    where attention reads zero.
    """
    queries, anchors = anchors_ego.shape[:2]
    uv_px, depth_m = project_points(anchors_ego.flatten(0, 1), camera_from_ego, image_from_camera)
    visible = is_hit(uv_px, depth_m, image_size).flatten(0, 1).unflatten(-1, (queries, anchors))
    camera, query = visible.any(-1).nonzero(as_tuple=True)
    sample = torch.div(camera, camera_from_ego.shape[1], rounding_mode="floor")
    size = torch.tensor([padded_size[1], padded_size[0]], dtype=uv_px.dtype, device=uv_px.device)
    share = uv_px.flatten(0, 1).unflatten(1, (queries, anchors))[camera, query] / size
    reference = torch.where(visible[camera, query][..., None], share, OUTSIDE)
    hit_depth_m = depth_m.flatten(0, 1).unflatten(1, (queries, anchors))[camera, query]
    counts = visible.any(-1).sum(1).tolist()
    return HitQueries(sample * queries + query, query, reference, hit_depth_m, counts)


@torch.no_grad()
def among(hits: HitQueries, rows: Int64[Tensor, " k"], total: int) -> HitQueries:
    """Hits of chosen queries alone, counted among them.

    Args:
        hits: of all queries.
        rows: chosen rows of the queries flattened to (B*h*w*z), rising.
        total: number of those queries.
    """
    place = torch.full((total,), -1, dtype=torch.int64, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    row = place.index_select(0, hits.row)
    kept = row >= 0
    counts = [int(part.sum()) for part in kept.split(hits.counts)]
    return HitQueries(row[kept], hits.query[kept], hits.reference[kept], hits.depth_m[kept], counts)
