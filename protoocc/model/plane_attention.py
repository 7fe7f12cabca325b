"""How the cells of three planes look at each other and at the images (TPVFormer's two attentions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.attention import ImageCrossAttention, VoxelSelfAttention, start_offsets
from protoocc.model.deformable import deformable_attention
from protoocc.model.lifting import mean_of_cameras
from protoocc.model.planes import PLANES, Shape, on_planes, plane_points
from protoocc.model.projection import OUTSIDE, HitQueries
from protoocc.model.prototypes import PrototypeMapping

Planes = Sequence[Float[Tensor, "B _ _ d"]]

OWN_PLANE: Final = 3.0
"""Logit by which an untrained cell prefers its own plane to the two others."""


class PlaneViews(NamedTuple):
    """What the cells of a layer look at, for all B*V cameras."""

    features: Sequence[Float[Tensor, "cameras d _ _"]]
    """One map per scale."""
    hits: Sequence[HitQueries]
    """Of the cells of each plane."""
    prototypes: Float[Tensor, "cameras M d"] | None
    """P_img; None without prototype mapping."""


class HybridAttention(nn.Module):
    """Deformable attention of every cell with all three planes.

    A cell samples around its own place on its own plane, and around the points of its pillar on the two others. How
    much each plane counts is a softmax of its own, as published. Untrained, a head looks into its own direction.
    """

    references: Tensor

    def __init__(self, channels: int, shape: Shape, *, heads: int, points: int, anchors: int) -> None:
        """Linear maps of each plane for offsets, weights, values and output.

        Args:
            channels: d.
            shape: cells along x, y, z.
            heads: attention heads.
            points: per head and plane, a multiple of ``anchors``.
            anchors: points of a pillar around which they lie.
        """
        super().__init__()
        self.heads = heads
        apart = start_offsets(heads, points // anchors).repeat_interleave(anchors, dim=1)
        offsets, weights = [], []
        for plane in range(len(PLANES)):
            start = apart[:, None].repeat(1, len(PLANES), 1, 1)
            start[:, plane] = start_offsets(heads, points)
            offsets.append(_linear(channels, start))
            logits = torch.zeros(heads, len(PLANES), points + 1)
            logits[:, plane, -1] = OWN_PLANE
            weights.append(_linear(channels, logits))
        self.offsets, self.weights = nn.ModuleList(offsets), nn.ModuleList(weights)
        self.values = nn.ModuleList(_linear(channels, torch.zeros(channels), xavier=True) for _ in PLANES)
        self.combine = nn.ModuleList(_linear(channels, torch.zeros(channels), xavier=True) for _ in PLANES)
        pillars = torch.cat([plane_points(shape, plane, anchors) for plane in PLANES])
        places = on_planes(pillars[:, torch.arange(points) % anchors]).movedim(1, 2)
        self.register_buffer("references", places, persistent=False)

    def forward(self, planes: Planes, positions: Sequence[Float[Tensor, "_ _ d"]]) -> list[Float[Tensor, "B _ _ d"]]:
        """What each cell gathers (no residual).

        Args:
            planes: xy, xz, yz.
            positions: positional embedding of their cells.
        """
        batch, sizes = len(planes[0]), [(plane.shape[1], plane.shape[2]) for plane in planes]
        counts = [height * width for height, width in sizes]
        looking = [(plane + place).flatten(1, 2) for plane, place in zip(planes, positions, strict=True)]
        shape = (self.heads, len(PLANES), -1)
        offsets = torch.cat([each(cells) for each, cells in zip(self.offsets, looking, strict=True)], dim=1)
        logits = torch.cat([each(cells) for each, cells in zip(self.weights, looking, strict=True)], dim=1)
        logits = logits.unflatten(-1, shape)
        weights = functional.softmax(logits[..., :-1], dim=-1) * functional.softmax(logits[..., -1:], dim=-2)
        cells = torch.tensor([[width, height] for height, width in sizes], device=offsets.device)
        moved = offsets.unflatten(-1, (*shape, 2)) / cells[:, None]
        locations = self.references[:, None] + moved
        value = [each(plane.flatten(1, 2)) for each, plane in zip(self.values, planes, strict=True)]
        sampled = deformable_attention(
            torch.cat(value, dim=1).unflatten(-1, (self.heads, -1)),
            sizes,
            locations.flatten(0, 1),
            weights.flatten(0, 1),
            [sum(counts)] * batch,
        )
        parts = sampled.flatten(1).unflatten(0, (batch, -1)).split(counts, dim=1)
        return [each(part).unflatten(1, size) for each, part, size in zip(self.combine, parts, sizes, strict=True)]


def _linear(channels: int, bias: Float[Tensor, "*any"], *, xavier: bool = False) -> nn.Linear:
    """A linear map to as many values as ``bias`` has, which is all that it gives before training without xavier."""
    layer = nn.Linear(channels, bias.numel())
    with torch.no_grad():
        layer.bias.copy_(bias.flatten())
        if xavier:
            nn.init.xavier_uniform_(layer.weight)
        else:
            layer.weight.zero_()
    return layer


class TopAttention(nn.Module):
    """Deformable attention within the plane seen from above alone, as in TPVFormer's network for occupancy."""

    def __init__(self, channels: int, *, heads: int, points: int) -> None:
        """Arguments are those of `VoxelSelfAttention`."""
        super().__init__()
        self.attention = VoxelSelfAttention(channels, heads=heads, points=points)

    def forward(self, planes: Planes, positions: Sequence[Float[Tensor, "_ _ d"]]) -> list[Float[Tensor, "B _ _ d"]]:
        """What each cell gathers; nothing on the two other planes."""
        top = self.attention(planes[0].unsqueeze(3), positions[0].unsqueeze(2)).squeeze(3)
        return [top, *(torch.zeros_like(plane) for plane in planes[1:])]


class PlaneLayer(nn.Module):
    """Self attention, prototype mapping with cross attention, feed-forward; each with a residual and a norm."""

    def __init__(self, attention: nn.Module, looks: Sequence[ImageCrossAttention], ffn: int, *, maps: bool) -> None:
        """One layer.

        Args:
            attention: of the planes with each other.
            looks: at the images, one for each plane.
            ffn: hidden channels of the feed-forward block.
            maps: prototypes are mapped onto the hit cells.
        """
        super().__init__()
        d = looks[0].value.in_features
        self.self_attention = attention
        self.cross_attention = nn.ModuleList(looks)
        self.mapping = PrototypeMapping(d) if maps else None
        self.feed_forward = nn.Sequential(nn.Linear(d, ffn), nn.ReLU(), nn.Linear(ffn, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))

    def forward(
        self, planes: Planes, positions: Sequence[Float[Tensor, "_ _ d"]], views: PlaneViews
    ) -> list[Float[Tensor, "B _ _ d"]]:
        """One round."""
        gathered = self.self_attention(planes, positions)
        planes = [self.norms[0](plane + part) for plane, part in zip(planes, gathered, strict=True)]
        flat = [plane.flatten(0, 2) for plane in planes]
        rows = [cells.index_select(0, hits.row) for cells, hits in zip(flat, views.hits, strict=True)]
        mapped, done = self._map(rows, views), []
        for number, (plane, hits) in enumerate(zip(planes, views.hits, strict=True)):
            cells, look = flat[number], self.cross_attention[number]
            placed = mapped[number] + positions[number].flatten(0, 1).index_select(0, hits.query)
            sampled, _ = look(placed, views.features, hits)
            seen = look.combine(mean_of_cameras(sampled, hits, len(cells)))  # type: ignore[operator]
            dispatched = mean_of_cameras(mapped[number] - rows[number], hits, len(cells))
            cells = self.norms[1](cells + dispatched + seen)
            done.append(self.norms[2](cells + self.feed_forward(cells)).view(plane.shape))
        return done

    def _map(self, rows: Sequence[Float[Tensor, "_ d"]], views: PlaneViews) -> list[Float[Tensor, "_ d"]]:
        """Prototypes of each camera mapped onto all cells that it hits, those of the three planes together."""
        if self.mapping is None or views.prototypes is None:
            return list(rows)
        cameras = list(zip(*(hits.counts for hits in views.hits), strict=True))
        queries = _camera_after_camera(rows, views.hits)
        places = _camera_after_camera([seen_place(hits) for hits in views.hits], views.hits)
        mapped, _, _ = self.mapping(views.prototypes, queries, places, [sum(counts) for counts in cameras])
        parts = mapped.split([count for counts in cameras for count in counts])
        return [torch.cat(parts[plane :: len(rows)]) for plane in range(len(rows))]


def _camera_after_camera(planes: Sequence[Float[Tensor, "_ c"]], hits: Sequence[HitQueries]) -> Float[Tensor, "n c"]:
    """Rows of the hits of all planes of the first camera, then those of the second one, and so on."""
    cameras = zip(*(rows.split(own.counts) for rows, own in zip(planes, hits, strict=True)), strict=True)
    return torch.cat([part for camera in cameras for part in camera])


def seen_place(hits: HitQueries) -> Float[Tensor, "n 2"]:
    """Mean place of the anchors of each hit that its camera sees."""
    seen = (hits.reference[..., :1] > OUTSIDE / 2).to(hits.reference.dtype)
    return (hits.reference * seen).sum(1) / seen.sum(1)
