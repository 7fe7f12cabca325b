"""Depth-weighted deformable attention, the baseline of Table 3 that DFA3D (arXiv 2307.12972) adds to PanoOcc-Small.

A head gives every image cell a distribution over depth. An attention sample then lies in (u, v, depth), and each of the
four image cells around it counts by the probability that its surface is at that depth. This is trilinear sampling of
features times depth; the volume of that product is never built.

The head is trained with depth measured by LiDAR (weight 0.5) as published, where shards hold it (`pack --depth`), else
with the depth of the first occupied voxel along the ray of each cell (`protoocc.losses.auxiliary`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import DeformConv2d

from protoocc.model.attention import ImageCrossAttention, Sampling, start_offsets
from protoocc.model.projection import HitQueries

NEAREST_M, FARTHEST_M = 2.0, 58.0
"""Depth range of the distribution, metres. A sample outside of it reads zero."""

DEPTH_BINS = 112
"""Bins of 0.5 m."""

_GROUP_SIZES = (2, 4, 8)
_GROUPS_PER_SIZE = 8


class DepthHead(nn.Module):
    """Distribution over depth of every cell of one feature scale: that of 32 pixels per cell, or the coarsest below.

    The layers are those of DFA3D's public configuration: a 3 x 3 convolution, three residual blocks, atrous pyramid
    pooling, a deformable convolution in 4 groups, and a score for each of 24 groups of bins, finer near the camera:
    8 of 1 m, 8 of 2 m, 8 of 4 m. In training it needs two images or more, for the batch norm behind the global pooling.
    """

    repeats: Tensor

    def __init__(self, channels: int, strides: Sequence[int]) -> None:
        """6,559,018 parameters with 256 channels; ``strides`` are the feature scales, finest first."""
        super().__init__()
        self.scale = strides.index(min(32, strides[-1]))
        pooling = ASPP(channels, [6, 12, 18], channels)
        pooling.project = pooling.project[:3]  # without its dropout
        self.context = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *[BasicBlock(channels, channels) for _ in range(3)],
            pooling,
        )
        self.bend = nn.Conv2d(channels, 2 * 3 * 3, 3, padding=1)
        self.bent = DeformConv2d(channels, channels, 3, padding=1, groups=4, bias=False)
        self.score = nn.Conv2d(channels, _GROUPS_PER_SIZE * len(_GROUP_SIZES), 1)
        for parameter in self.bend.parameters():
            nn.init.zeros_(parameter)
        repeats = torch.tensor(_GROUP_SIZES).repeat_interleave(_GROUPS_PER_SIZE)
        self.register_buffer("repeats", repeats, persistent=False)

    def forward(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> Float[Tensor, "cameras bins h w"]:
        """Probability of the group of each bin; the groups of a cell sum to 1. Bends in float32 under autocast."""
        context = self.context(features[self.scale]).to(self.bent.weight.dtype)
        groups = self.score(self.bent(context, self.bend(context).to(context.dtype))).softmax(dim=1)
        bins: Tensor = groups.repeat_interleave(self.repeats, dim=1, output_size=DEPTH_BINS)
        return bins


def depth_share(depth_m: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Depth in metres as a share of the range of the distribution."""
    return (depth_m - NEAREST_M) / (FARTHEST_M - NEAREST_M)


class DepthCrossAttention(ImageCrossAttention):
    """Multi-scale deformable cross attention with sampling points in (u, v, depth)."""

    def __init__(self, channels: int, *, heads: int, levels: int, points: int) -> None:
        """Adds a linear map for the offset of each point in depth, bins; untrained, it spreads with the distance."""
        super().__init__(channels, heads=heads, levels=levels, points=points)
        self.depth_offsets = nn.Linear(channels, heads * levels * points)
        start = start_offsets(heads, points).mean(-1)[:, None].expand(-1, levels, -1)
        nn.init.zeros_(self.depth_offsets.weight)
        with torch.no_grad():
            self.depth_offsets.bias.copy_(start.flatten())

    def forward(  # type: ignore[override]  # it looks at depth as well
        self,
        queries: Float[Tensor, "n d"],
        features: Sequence[Float[Tensor, "cameras d _ _"]],
        hits: HitQueries,
        depth: Float[Tensor, "cameras bins h w"],
    ) -> tuple[Float[Tensor, "n d"], Sampling]:
        """Attends from every hit to the features of its camera at the depth of the hit.

        Args:
            queries: hit queries with their positions, camera after camera.
            features: one map per scale of all B*V cameras.
            hits: which rows belong to which camera, where they land and how far away they are.
            depth: distribution over depth of every camera, from `DepthHead`.

        Returns:
            (n, d) sampled values, before `combine`, and where each hit looked.
        """
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        sampling = self._sampling(queries, sizes, hits)
        value = self._values(features)
        locations = torch.cat([sampling.locations, self._depth_places(queries, hits)[..., None]], dim=-1)
        sampled = depth_weighted_attention(value, depth, locations, sampling.weights, sizes=sizes, counts=hits.counts)
        return sampled.flatten(1), sampling

    def _depth_places(self, queries: Float[Tensor, "n d"], hits: HitQueries) -> Float[Tensor, "n heads levels points"]:
        """Depth of each sampling point as a share of the range: that of its anchor and an offset."""
        offsets = self.depth_offsets(queries).unflatten(-1, (self.heads, self.levels, self.points)) / DEPTH_BINS
        anchor = torch.arange(self.points, device=queries.device) % hits.depth_m.shape[1]
        places: Tensor = depth_share(hits.depth_m)[:, anchor][:, None, None] + offsets
        return places


def depth_weighted_attention(
    value: Float[Tensor, "maps cells heads c"],
    depth: Float[Tensor, "maps bins h w"],
    locations: Float[Tensor, "n heads levels points 3"],
    weights: Float[Tensor, "n heads levels points"],
    *,
    sizes: list[tuple[int, int]],
    counts: list[int],
) -> Float[Tensor, "n heads c"]:
    """Deformable attention whose samples count by depth.

        out = sum over levels, points:  weight * sum over the 4 cells around (u, v):  bilinear * P(depth | cell) * value

    Args:
        value: value maps of all levels, one after the other, rows first.
        depth: distribution over depth bins on a grid of its own; a cell of a level reads the depth cell in which its
            upper left corner lies.
        locations: sampling points (u, v, depth) as shares of the map and of the depth range; what lies outside of
            either contributes zero. P is interpolated between bin centres.
        weights: attention weights.
        sizes: (H, W) of each level; cells = sum of H * W.
        counts: rows of ``locations`` of each map, map after map.

    Returns:
        (n, heads, c).
    """
    parts = []
    for camera, (points, shares) in enumerate(zip(locations.split(counts), weights.split(counts), strict=True)):
        levels = value[camera].split([height * width for height, width in sizes])
        sampled = value.new_zeros(len(points), *value.shape[2:])
        for level, size in enumerate(sizes):
            sampled = sampled + _sample_level(
                levels[level], depth[camera], points[:, :, level], shares[:, :, level], size=size
            )
        parts.append(sampled)
    return torch.cat(parts)


def _sample_level(
    value: Float[Tensor, "cells heads c"],
    depth: Float[Tensor, "bins h w"],
    points: Float[Tensor, "n heads points 3"],
    weights: Float[Tensor, "n heads points"],
    *,
    size: tuple[int, int],
) -> Float[Tensor, "n heads c"]:
    """One level of one camera: a weighted sum of the rows of a table (cell, head)."""
    hits, heads = weights.shape[:2]
    if hits == 0:
        return value.new_zeros(0, *value.shape[1:])
    cells, bilinear = _corners(points[..., :2], size)
    probability = _depth_probability(depth, _depth_cells(size, depth)[cells], points[..., 2])
    rows = cells * heads + torch.arange(heads, device=cells.device)[:, None, None]
    shares = weights[..., None] * bilinear * probability
    table = value.flatten(0, 1).to(shares.dtype)
    sampled = functional.embedding_bag(
        rows.flatten(2).flatten(0, 1), table, mode="sum", per_sample_weights=shares.flatten(2).flatten(0, 1)
    )
    return sampled.view(hits, heads, -1)


def _corners(
    places: Float[Tensor, "*n 2"], size: tuple[int, int]
) -> tuple[Int64[Tensor, "*n 4"], Float[Tensor, "*n 4"]]:
    """The four cells around each place (u, v) and their bilinear shares; cells outside get index 0 and share 0."""
    height, width = size
    x, y = places[..., 0] * width - 0.5, places[..., 1] * height - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    right_share, bottom_share = x - left, y - top
    columns = torch.stack([left, left + 1, left, left + 1], dim=-1)
    lines = torch.stack([top, top, top + 1, top + 1], dim=-1)
    horizontal = torch.stack([1 - right_share, right_share, 1 - right_share, right_share], dim=-1)
    vertical = torch.stack([1 - bottom_share, 1 - bottom_share, bottom_share, bottom_share], dim=-1)
    inside = (columns >= 0) & (columns < width) & (lines >= 0) & (lines < height)
    cells = torch.where(inside, lines * width + columns, 0.0).long()
    return cells, horizontal * vertical * inside


def _depth_cells(size: tuple[int, int], depth: Float[Tensor, "bins h w"]) -> Int64[Tensor, " cells"]:
    """Index of the depth cell in which the upper left corner of each cell of a level lies."""
    height, width = depth.shape[1:]
    lines = torch.arange(size[0], device=depth.device) * height // size[0]
    columns = torch.arange(size[1], device=depth.device) * width // size[1]
    return (lines[:, None] * width + columns).flatten()


def _depth_probability(
    depth: Float[Tensor, "bins h w"], cells: Int64[Tensor, "*n 4"], place: Float[Tensor, "*n"]
) -> Float[Tensor, "*n 4"]:
    """Probability of each cell at a place along the depth range, linear between the centres of two bins."""
    bins, area = depth.shape[0], depth.shape[1] * depth.shape[2]
    position = place * bins - 0.5
    near = position.detach().floor()
    far_share = position - near
    probability = depth.new_zeros(())
    for index, share in ((near, 1 - far_share), (near + 1, far_share)):
        inside = (index >= 0) & (index < bins)
        rows = torch.where(inside, index, 0.0).long()[..., None] * area + cells
        read = depth.flatten().gather(0, rows.flatten()).view(rows.shape)
        probability = probability + read * (share * inside)[..., None]
    return probability
