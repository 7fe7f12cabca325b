"""Prototype-aware view transformation: voxel queries read the images (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from protoocc.model.attention import ImageCrossAttention, Sampling, VoxelSelfAttention
from protoocc.model.config import ProtoOccConfig
from protoocc.model.depth_attention import DepthCrossAttention, DepthHead
from protoocc.model.lifting import mean_of_cameras
from protoocc.model.pixel_features import PixelFeatures
from protoocc.model.projection import HitQueries
from protoocc.model.prototypes import PrototypeMapping


class VoxelQueries(nn.Module):
    """Learned voxel queries Q (h, w, z, d) and a learned position made of one embedding per axis."""

    def __init__(self, query_shape: tuple[int, int, int], channels: int) -> None:
        """The queries start as waves of their place plus a little noise, so that neighbours start alike.

        Starting from noise alone, each query had to learn by itself where it is: after 100 steps of the demo preset the
        contrastive loss had not moved and only the road was found.
        """
        super().__init__()
        self.table = nn.Parameter(place_waves(query_shape, channels) + torch.randn(*query_shape, channels) * 0.1)
        self.axes = nn.ParameterList([nn.Parameter(torch.randn(size, channels) * 0.5) for size in query_shape])

    def positions(self) -> Float[Tensor, "h w z d"]:
        """Positional embedding: the sum of the three axes."""
        along_x, along_y, along_z = self.axes
        positions: Tensor = along_x[:, None, None] + along_y[None, :, None] + along_z[None, None, :]
        return positions


def place_waves(query_shape: tuple[int, int, int], channels: int) -> Float[Tensor, "h w z d"]:
    """Sines and cosines of the place along each axis, -1..1, from half a wave to eight waves over the grid.

    Channels beyond six times the number of frequencies (d // 6) are zero; amplitude 0.7.
    """
    frequencies = 0.5 * torch.pi * 2.0 ** torch.linspace(0.0, 4.0, channels // 6)
    axes = [(torch.arange(size) + 0.5) / size * 2.0 - 1.0 for size in query_shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    phase = (place[..., None] * frequencies).flatten(-2)
    waves = 0.7 * torch.cat([phase.sin(), phase.cos()], dim=-1)
    return functional.pad(waves, (0, channels - waves.shape[-1]))


@dataclass(frozen=True)
class MappingTrace:
    """What the last layer leaves for equation (2): P_vox of each camera, and A and where it looked of each hit."""

    voxel_prototypes: Float[Tensor, "cameras M d"]
    similarity: Float[Tensor, "n M"]
    sampling: Sampling


class CameraViews(NamedTuple):
    """What the queries of a layer look at, for all B*V cameras."""

    features: Sequence[Float[Tensor, "cameras d _ _"]]
    """One map per scale."""
    prototypes: Float[Tensor, "cameras M d"] | None
    """P_img; None without prototype mapping."""
    hits: HitQueries
    depth: Float[Tensor, "cameras bins _ _"] | None
    """Probabilities of depth; only where attention is weighted by depth."""


class EncoderLayer(nn.Module):
    """Self attention, prototype mapping with cross attention, feed-forward; each with a residual and a norm."""

    def __init__(self, config: ProtoOccConfig) -> None:
        """One layer; without ``config.prototype_mapping`` it is PanoOcc's."""
        super().__init__()
        d, levels = config.channels, len(config.strides)
        self.self_attention = VoxelSelfAttention(d, heads=config.heads, points=config.points)
        self.mapping = PrototypeMapping(d) if config.prototype_mapping else None
        attention = DepthCrossAttention if config.depth_attention else ImageCrossAttention
        self.cross_attention = (
            attention(d, heads=config.heads, levels=levels, points=config.points) if config.image_attention else None
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(d, config.ffn_channels), nn.ReLU(), nn.Linear(config.ffn_channels, d)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(3)])

    def forward(
        self,
        queries: Float[Tensor, "B h w z d"],
        positions: Float[Tensor, "h w z d"],
        views: CameraViews,
        earlier: Float[Tensor, "B h w z d"] | None = None,
    ) -> tuple[Float[Tensor, "B h w z d"], MappingTrace | None]:
        """One round of view transformation; the trace is None without prototype mapping."""
        queries = self.norms[0](queries + self.self_attention(queries, positions, earlier))
        flat = queries.flatten(0, 3)
        dispatched, seen, trace = look(self.mapping, self.cross_attention, flat, positions.flatten(0, 2), views)
        flat = self.norms[1](flat + dispatched + seen)
        flat = self.norms[2](flat + self.feed_forward(flat))
        return flat.view_as(queries), trace


def look(
    mapping: PrototypeMapping | None,
    cross_attention: ImageCrossAttention | None,
    rows: Float[Tensor, "rows d"],
    positions: Float[Tensor, "q d"],
    views: CameraViews,
) -> tuple[Float[Tensor, "rows d"], Float[Tensor, "rows d"], MappingTrace | None]:
    """Prototype mapping, then cross attention, of the queries that each camera hits: section 3.2.

    Args:
        mapping: of this layer; None without prototypes.
        cross_attention: of this layer; None where prototypes alone tell what the images show.
        rows: the queries that `HitQueries.row` counts.
        positions: positional embedding of the queries that `HitQueries.query` counts.
        views: what all cameras show.

    Returns:
        What mapping and what attention add to each query, means over the cameras that hit it, and what equation (2)
        needs: None without prototypes or attention.
    """
    features, prototypes, hits, depth = views
    hit_rows = rows.index_select(0, hits.row)
    mapped, told = hit_rows, None
    if mapping is not None and prototypes is not None:
        mapped, voxel_prototypes, similarity = mapping(prototypes, hit_rows, hits.reference[:, 0], hits.counts)
        told = voxel_prototypes, similarity
    dispatched = mean_of_cameras(mapped - hit_rows, hits, len(rows))
    if cross_attention is None:
        return dispatched, torch.zeros_like(dispatched), None
    placed = mapped + positions.index_select(0, hits.query)
    images = (features, hits) if depth is None else (features, hits, depth)
    sampled, sampling = cross_attention(placed, *images)
    seen = cross_attention.combine(mean_of_cameras(sampled, hits, len(rows)))
    return dispatched, seen, None if told is None else MappingTrace(*told, sampling)


def read_back(
    pixel_features: PixelFeatures, trace: MappingTrace, hits: HitQueries, grid_size: tuple[int, int]
) -> tuple[Float[Tensor, "cameras D d"], Bool[Tensor, "cameras D"]]:
    """X of equation (2) for every camera on the grid (h', w'), and whether a query looked at each cell."""
    cells: tuple[Tensor, Tensor] = pixel_features(
        trace.sampling, grid_size, trace.similarity, trace.voxel_prototypes, hits.counts
    )
    return cells


class Encoder(nn.Module):
    """The view transformation: all layers, the embedding of scales, and the pixel features X.

    Cameras carry no embedding: they differ by their calibration alone, so their order means nothing.
    """

    def __init__(self, config: ProtoOccConfig) -> None:
        """Builds ``config.encoder_layers`` layers."""
        super().__init__()
        self.scale_embedding = nn.Parameter(torch.randn(len(config.strides), config.channels) * 0.1)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.pixel_features = PixelFeatures() if config.prototype_optimisation else None
        self.depth_head = DepthHead(config.channels, config.strides) if config.depth_attention else None
        self.recompute = config.recompute

    def forward(
        self,
        queries: Float[Tensor, "B h w z d"],
        positions: Float[Tensor, "h w z d"],
        views: CameraViews,
        earlier: Float[Tensor, "B h w z d"] | None = None,
    ) -> tuple[Float[Tensor, "B h w z d"], MappingTrace | None]:
        """Encoded queries and the trace of the last layer.

        Args:
            queries: start of every query.
            positions: positional embedding, added where a query looks around.
            views: what all cameras show; each scale of the features gets its embedding here.
            earlier: encoded queries of the frame before in the present ego frame, which self attention reads beside the
                present ones; None for a single frame.
        """
        scales = [
            feature + embedding[:, None, None]
            for feature, embedding in zip(views.features, self.scale_embedding, strict=True)
        ]
        trace = None
        for layer in self.layers:
            run = partial(layer, views=views._replace(features=scales), earlier=earlier)
            if self.recompute and torch.is_grad_enabled():
                queries, trace = checkpoint(run, queries, positions, use_reentrant=False)
            else:
                queries, trace = run(queries, positions)
        return queries, trace
