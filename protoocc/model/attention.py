"""Deformable attention: hit queries look at image features, voxel queries look at each other (section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.projection import HitQueries

START_AT_REFERENCE = 2.5
"""Logit by which an untrained attention prefers the point on the reference itself. With 0, features start blurred over
all points, and the contrastive loss of the demo preset fell to 4.8 instead of 4.2 in 200 steps."""


def deformable_sample(
    values: Sequence[Float[Tensor, "maps c _ _"]],
    locations: Float[Tensor, "maps q levels points 2"],
    weights: Float[Tensor, "maps q levels points"],
) -> Float[Tensor, "maps q c"]:
    """Weighted sum of bilinear samples: the core of deformable attention.

    Args:
        values: one value map (maps, c, H_l, W_l) per level; a map is one head of one camera (or of one z slice).
        locations: sampling points as a share (u, v) of the map, 0..1; cell i of W covers [i/W, (i+1)/W). What lies
            outside contributes zero.
        weights: attention weights.

    Returns:
        (maps, q, c).
    """
    sampled = values[0].new_zeros(locations.shape[0], values[0].shape[1], locations.shape[1])
    if locations.shape[1] == 0:
        return sampled.mT
    grids = 2.0 * locations - 1.0
    for level, value in enumerate(values):
        points = functional.grid_sample(value, grids[:, :, level], padding_mode="zeros", align_corners=False)
        sampled = sampled + (points * weights[:, None, :, level]).sum(-1)
    return sampled.mT


def start_offsets(heads: int, points: int) -> Float[Tensor, "heads points 2"]:
    """Offsets of an untrained attention, cells: each head looks into its own direction, point p at distance p.

    The first point lies on the reference itself; starting at distance 1, as Deformable DETR does, learned slower.
    """
    angles = torch.arange(heads) * (2.0 * math.pi / heads)
    direction = torch.stack([angles.cos(), angles.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    return direction[:, None] * torch.arange(points, dtype=torch.float32)[None, :, None]


def _start_sampling(offsets: nn.Linear, weights: nn.Linear, start: Tensor) -> None:
    nn.init.zeros_(offsets.weight)
    nn.init.zeros_(weights.weight)
    with torch.no_grad():
        offsets.bias.copy_(start.flatten())
        at_reference = (start == 0).all(dim=-1)
        weights.bias.copy_((START_AT_REFERENCE * at_reference).flatten())


@dataclass(frozen=True)
class Sampling:
    """Where the hit queries of all cameras looked: n hits, as in `HitQueries`.

    Attributes:
        locations: (n, heads, levels, points, 2) as a share (u, v) of the padded image.
        weights: (n, heads, levels, points), sum 1 per head.
    """

    locations: Float[Tensor, "n heads levels points 2"]
    weights: Float[Tensor, "n heads levels points"]


class ImageCrossAttention(nn.Module):
    """Multi-scale deformable cross attention of the hit queries of each camera with its image features."""

    def __init__(self, channels: int, *, heads: int, levels: int, points: int) -> None:
        """Linear maps for offsets, weights and values; the output map is applied by `combine`."""
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.combine = nn.Linear(channels, channels)
        start = start_offsets(heads, points)[:, None].expand(-1, levels, -1, -1)
        _start_sampling(self.offsets, self.weights, start)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.combine.weight)
        nn.init.zeros_(self.value.bias)
        nn.init.zeros_(self.combine.bias)

    def forward(
        self, queries: Float[Tensor, "n d"], features: Sequence[Float[Tensor, "cameras d _ _"]], hits: HitQueries
    ) -> tuple[Float[Tensor, "n d"], Sampling]:
        """Attends from every hit to the features of its camera.

        Args:
            queries: hit queries with their positions, camera after camera.
            features: one map per scale of all B*V cameras.
            hits: which rows belong to which camera and where they land.

        Returns:
            (n, d) sampled values, before `combine`, and where each hit looked.
        """
        sampling = self._sampling(queries, features, hits)
        values = [self._project(feature) for feature in features]
        sampled, first = [], 0
        for camera, count in enumerate(hits.counts):
            rows = slice(first, first + count)
            heads = deformable_sample(
                [value[camera] for value in values],
                sampling.locations[rows].transpose(0, 1),
                sampling.weights[rows].transpose(0, 1),
            )
            sampled.append(heads.transpose(0, 1).flatten(1))
            first += count
        return torch.cat(sampled), sampling

    def _project(self, feature: Float[Tensor, "cameras d H W"]) -> Float[Tensor, "cameras heads c H W"]:
        """Value map of each head."""
        value = functional.conv2d(feature, self.value.weight[..., None, None], self.value.bias)
        heads: Tensor = value.contiguous().unflatten(1, (self.heads, -1))
        return heads

    def _sampling(
        self, queries: Float[Tensor, "n d"], features: Sequence[Float[Tensor, "cameras d _ _"]], hits: HitQueries
    ) -> Sampling:
        """Point p lies around anchor p mod anchors of its query."""
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2))
        weights = functional.softmax(self.weights(queries).unflatten(-1, (self.heads, -1)), dim=-1)
        sizes = torch.tensor([[f.shape[-1], f.shape[-2]] for f in features], device=queries.device)
        anchor = torch.arange(self.points, device=queries.device) % hits.reference.shape[1]
        locations = hits.reference[:, anchor][:, None, None] + offsets / sizes[:, None]
        return Sampling(locations, weights.unflatten(-1, shape[1:]))


class VoxelSelfAttention(nn.Module):
    """Deformable self attention of the voxel queries, within each horizontal slice (h, w).

    It reads two queues, an earlier state of the voxels and the present one, and averages them. With a single frame
    both queues are the present state.
    """

    queues = 2

    def __init__(self, channels: int, *, heads: int, points: int) -> None:
        """Linear maps for offsets, weights, values and output; ``points`` is per head and queue."""
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(self.queues * channels, heads * self.queues * points * 2)
        self.weights = nn.Linear(self.queues * channels, heads * self.queues * points)
        self.value = nn.Linear(channels, channels)
        self.combine = nn.Linear(channels, channels)
        start = start_offsets(heads, points)[:, None].expand(-1, self.queues, -1, -1)
        _start_sampling(self.offsets, self.weights, start)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.combine.weight)
        nn.init.zeros_(self.value.bias)
        nn.init.zeros_(self.combine.bias)

    def forward(
        self, queries: Float[Tensor, "B h w z d"], positions: Float[Tensor, "h w z d"]
    ) -> Float[Tensor, "B h w z d"]:
        """What each query gathers from its slice (no residual)."""
        batch, height, width, depth, _ = queries.shape
        both = torch.cat([queries, queries + positions], dim=-1).permute(0, 3, 1, 2, 4).flatten(2, 3)
        locations = self._locations(both, height, width).flatten(0, 2)
        scores = self.weights(both).unflatten(-1, (self.heads, self.queues, self.points))
        weights = (functional.softmax(scores, dim=-1) / self.queues).flatten(-2)
        weights = weights.permute(0, 1, 3, 2, 4).flatten(0, 2)
        value = self.value(queries).unflatten(-1, (self.heads, -1)).permute(0, 3, 4, 5, 1, 2)
        sampled = deformable_sample([value.flatten(0, 2)], locations[:, :, None], weights[:, :, None])
        slices = sampled.view(batch, depth, self.heads, height, width, -1)
        gathered: Tensor = self.combine(slices.permute(0, 3, 4, 1, 2, 5).flatten(-2))
        return gathered

    def _locations(
        self, both: Float[Tensor, "B z hw d2"], height: int, width: int
    ) -> Float[Tensor, "B z heads hw samples 2"]:
        """Sampling points of both queues, as a share (along w, along h) of the slice."""
        rows = (torch.arange(height, device=both.device) + 0.5) / height
        columns = (torch.arange(width, device=both.device) + 0.5) / width
        down, right = torch.meshgrid(rows, columns, indexing="ij")
        reference = torch.stack([right, down], dim=-1).view(height * width, 1, 2)
        size = torch.tensor([width, height], device=both.device)
        offsets = self.offsets(both).unflatten(-1, (self.heads, self.queues * self.points, 2))
        locations: Tensor = (reference[:, None] + offsets / size).permute(0, 1, 3, 2, 4, 5)
        return locations
