"""Layers of VoxFormer: proposed queries look at the images, then all queries look at each other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoocc.model.attention import ImageCrossAttention, VoxelSelfAttention
from protoocc.model.encoder import CameraViews, MappingTrace, look
from protoocc.model.prototypes import PrototypeMapping
from protoocc.model.voxformer.config import VoxFormerConfig


class SeedLayer(nn.Module):
    """Cross attention, norm, feed-forward, norm of the proposed queries; prototypes enter before the attention."""

    def __init__(self, config: VoxFormerConfig) -> None:
        """One layer; without ``config.prototype_mapping`` it is VoxFormer's."""
        super().__init__()
        d = config.channels
        self.mapping = PrototypeMapping(d) if config.prototype_mapping else None
        self.cross_attention = ImageCrossAttention(
            d, heads=config.heads, levels=len(config.strides), points=config.points
        )
        self.feed_forward = _feed_forward(config)
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2)])
        self.drop = nn.Dropout(config.layer_dropout)

    def forward(
        self, rows: Float[Tensor, "rows d"], positions: Float[Tensor, "q d"], views: CameraViews
    ) -> tuple[Float[Tensor, "rows d"], MappingTrace | None]:
        """What the proposed queries are afterwards; the trace is None without prototype mapping.

        Args:
            rows: proposed queries of all samples.
            positions: of all queries of a sample.
            views: with the hits of the proposed queries alone.
        """
        dispatched, seen, trace = look(self.mapping, self.cross_attention, rows, positions, views)
        rows = self.norms[0](rows + dispatched + self.drop(seen))
        return self.norms[1](rows + self.feed_forward(rows)), trace


class SpreadLayer(nn.Module):
    """Self attention, norm, feed-forward, norm of all queries on their folded image."""

    def __init__(self, config: VoxFormerConfig) -> None:
        """One layer."""
        super().__init__()
        d = config.channels
        self.self_attention = VoxelSelfAttention(d, heads=config.heads, points=config.points)
        self.feed_forward = _feed_forward(config)
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2)])
        self.drop = nn.Dropout(config.layer_dropout)

    def forward(
        self, image: Float[Tensor, "B rows columns d"], positions: Float[Tensor, "rows columns d"]
    ) -> Float[Tensor, "B rows columns d"]:
        """One round of spreading what is known over the folded image."""
        gathered = self.self_attention(image.unsqueeze(3), positions.unsqueeze(2)).squeeze(3)
        image = self.norms[0](image + self.drop(gathered))
        spread: Tensor = self.norms[1](image + self.feed_forward(image))
        return spread


def _feed_forward(config: VoxFormerConfig) -> nn.Sequential:
    d, hidden, drop = config.channels, config.ffn_channels, config.layer_dropout
    return nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(drop), nn.Linear(hidden, d), nn.Dropout(drop))


class MaskedQueries(nn.Module):
    """Learned start of every query, and the one token that stands for queries that nothing proposes."""

    def __init__(self, start: Float[Tensor, "h w z d"]) -> None:
        """``start`` is what the table begins with; the token begins at zero."""
        super().__init__()
        self.table = nn.Parameter(start)
        self.mask_token = nn.Parameter(torch.zeros(start.shape[-1]))

    def complete(self, seeds: Float[Tensor, "rows d"], rows: Tensor, samples: int) -> Float[Tensor, "B h w z d"]:
        """All queries: ``seeds`` at ``rows`` of the flattened (B, h, w, z) volume, the token elsewhere."""
        shape = (samples, *self.table.shape)
        volume = self.mask_token.to(seeds.dtype).expand(shape).reshape(-1, shape[-1])
        return volume.index_copy(0, rows, seeds).view(shape)
