"""Deformable attention: hit queries look at image features, voxel queries look at each other (section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.deformable import deformable_attention
from protoocc.model.projection import HitQueries

START_AT_REFERENCE = 2.5
"""Logit by which an untrained attention prefers the point on the reference itself. With 0, features start blurred over
all points, and the contrastive loss of the demo preset fell to 4.8 instead of 4.2 in 200 steps."""


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

    def __init__(self, channels: int, *, heads: int, levels: int, points: int, start_anchors: int = 1) -> None:
        """Linear maps for offsets, weights and values; the output map is applied by `combine`.

        Untrained, the points of so many ``start_anchors`` lie around them alike, each anchor's first one on it.
        """
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.combine = nn.Linear(channels, channels)
        start = start_offsets(heads, points // start_anchors).repeat_interleave(start_anchors, dim=1)
        _start_sampling(self.offsets, self.weights, start[:, None].expand(-1, levels, -1, -1))
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
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        sampling = self._sampling(queries, sizes, hits)
        value = self._values(features)
        sampled = deformable_attention(value, sizes, sampling.locations, sampling.weights, hits.counts)
        return sampled.flatten(1), sampling

    def _values(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> Float[Tensor, "cameras cells heads c"]:
        """What the heads can read: the cells of all scales of a camera one after the other, each row by row."""
        cells = torch.cat([feature.flatten(2).mT for feature in features], dim=1)
        value: Tensor = self.value(cells).unflatten(-1, (self.heads, -1))
        return value

    def _sampling(self, queries: Float[Tensor, "n d"], sizes: Sequence[tuple[int, int]], hits: HitQueries) -> Sampling:
        """Point p lies around anchor p mod anchors of its query; ``sizes`` are (H, W) of the scales, cells."""
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2))
        weights = functional.softmax(self.weights(queries).unflatten(-1, (self.heads, -1)), dim=-1)
        cells = torch.tensor([[width, height] for height, width in sizes], device=queries.device)
        anchor = torch.arange(self.points, device=queries.device) % hits.reference.shape[1]
        locations = hits.reference[:, anchor][:, None, None] + offsets / cells[:, None]
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
        self,
        queries: Float[Tensor, "B h w z d"],
        positions: Float[Tensor, "h w z d"],
        earlier: Float[Tensor, "B h w z d"] | None = None,
    ) -> Float[Tensor, "B h w z d"]:
        """What each query gathers from its slice (no residual).

        Args:
            queries: present state of the voxels.
            positions: positional embedding.
            earlier: an earlier state, in the present ego frame; by default the present one.
        """
        batch, height, width, depth, _ = queries.shape
        past = queries if earlier is None else earlier
        both = _slices(torch.cat([past, queries + positions], dim=-1))
        locations = self._locations(both, height, width)
        scores = self.weights(both).unflatten(-1, (self.heads, self.queues, self.points))
        weights = functional.softmax(scores, dim=-1) / self.queues
        # Two queues are two levels of the map of a slice. Where they are the same, one level with all points will do.
        value, sizes = self.value(_slices(queries)), [(height, width)]
        if earlier is None:
            locations, weights = locations.flatten(3, 4).unsqueeze(3), weights.flatten(3, 4).unsqueeze(3)
        else:
            value, sizes = torch.cat([self.value(_slices(earlier)), value], dim=1), sizes * 2
        value = value.unflatten(-1, (self.heads, -1))
        counts = [height * width] * len(value)
        sampled = deformable_attention(value, sizes, locations.flatten(0, 1), weights.flatten(0, 1), counts)
        slices = self.combine(sampled.flatten(1)).view(batch, depth, height, width, -1)
        return slices.permute(0, 2, 3, 1, 4)

    def _locations(
        self, both: Float[Tensor, "maps cells d2"], height: int, width: int
    ) -> Float[Tensor, "maps cells heads queues points 2"]:
        """Sampling points of both queues, as a share (along w, along h) of the slice."""
        rows = (torch.arange(height, device=both.device) + 0.5) / height
        columns = (torch.arange(width, device=both.device) + 0.5) / width
        down, right = torch.meshgrid(rows, columns, indexing="ij")
        reference = torch.stack([right, down], dim=-1).view(height * width, 1, 1, 1, 2)
        size = torch.tensor([width, height], device=both.device)
        offsets = self.offsets(both).unflatten(-1, (self.heads, self.queues, self.points, 2))
        return reference + offsets / size


def _slices(voxels: Float[Tensor, "B h w z d"]) -> Float[Tensor, "maps cells d"]:
    """Horizontal slices (B * z) with their cells (h * w), row by row."""
    return voxels.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
