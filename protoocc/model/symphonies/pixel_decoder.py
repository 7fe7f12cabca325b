"""Image features of MaskDINO's pixel decoder: a deformable encoder over four scales of a residual network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from protoocc.model.attention import ImageCrossAttention
from protoocc.model.backbone import ImageReader, ResNet
from protoocc.model.projection import HitQueries
from protoocc.model.symphonies.config import SymphoniesConfig

READ: Final = (8, 16, 32)
"""Scales of the residual network that enter the encoder; the fourth one, 64, is made of the last."""
_POINTS: Final = 4
_TEMPERATURE: Final = 10_000.0


class DecodedFeatures(ImageReader):
    """Features of ``config.strides``: stride 4 as the residual network leaves it, the others from the encoder.

    Each ends in two 1 x 1 convolutions to d channels.
    """

    def __init__(self, config: SymphoniesConfig) -> None:
        """Random weights; names of the residual network are those of `ImageFeatures`."""
        super().__init__(config)
        self.strides = config.strides
        self.resnet = ResNet(config.model_copy(update={"strides": (4, *READ)}))
        inner, outputs = config.pixel_decoder_channels, self.resnet.out_channels
        self.project = nn.ModuleList([_projection(outputs[stride], inner, 1) for stride in READ])
        self.project.append(_projection(outputs[32], inner, 3))
        self.scale_embedding = nn.Parameter(torch.randn(len(self.project), inner))
        self.layers = nn.ModuleList(
            [PixelLayer(inner, config.heads, config.pixel_decoder_ffn) for _ in range(config.pixel_decoder_layers)]
        )
        self.narrow = nn.ModuleList(
            [_narrow(outputs[4] if stride == 4 else inner, config.channels) for stride in config.strides]
        )

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n d _ _"]]:
        """Features of each scale, finest first; images are RGB."""
        scales = self.resnet(self.normalised(images))
        found = {4: scales[4], **dict(zip(READ, self.encode(scales), strict=False))}
        return [narrow(found[stride]) for stride, narrow in zip(self.strides, self.narrow, strict=True)]

    def encode(self, scales: dict[int, Tensor]) -> list[Float[Tensor, "n c _ _"]]:
        """Maps of strides 8 to 64 whose cells have looked at each other."""
        inputs = [scales[stride] for stride in (*READ, 32)]
        maps = [project(features) for project, features in zip(self.project, inputs, strict=True)]
        places = [
            sine_waves(features.shape[-2], features.shape[-1], features.shape[1]).to(features) + embedding
            for features, embedding in zip(maps, self.scale_embedding, strict=True)
        ]
        waves = torch.cat([place.flatten(0, 1) for place in places])
        hits = _every_cell(maps)
        for layer in self.layers:
            maps = layer(maps, waves, hits)
        return maps


class PixelLayer(nn.Module):
    """Deformable attention of all cells of all scales, norm, feed-forward, norm."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        """Four points on each of four scales."""
        super().__init__()
        self.attention = ImageCrossAttention(channels, heads=heads, levels=len(READ) + 1, points=_POINTS)
        self.feed_forward = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])

    def forward(
        self, maps: Sequence[Float[Tensor, "n c _ _"]], waves: Float[Tensor, "cells c"], hits: HitQueries
    ) -> list[Float[Tensor, "n c _ _"]]:
        """The maps after one round; ``waves`` say where each cell of an image is, scale after scale."""
        cells = torch.cat([scale.flatten(2).mT for scale in maps], dim=1)
        sampled, _ = self.attention((cells + waves).flatten(0, 1), maps, hits)
        cells = self.norms[0](cells + self.attention.combine(sampled).view_as(cells))
        cells = self.norms[1](cells + self.feed_forward(cells))
        parts = cells.split([scale.shape[-2] * scale.shape[-1] for scale in maps], dim=1)
        return [part.mT.reshape(scale.shape) for part, scale in zip(parts, maps, strict=True)]


def sine_waves(height: int, width: int, channels: int) -> Float[Tensor, "H W c"]:
    """Sines and cosines of the row (first half of the channels) and the column of each cell, over falling frequencies.

    The last row and column lie at 2 pi; frequency i of c / 4 is 10000^(-4 i / c).
    """
    frequencies = _TEMPERATURE ** (-torch.arange(channels // 4) * 4.0 / channels)
    halves = []
    for size, axis in ((height, 0), (width, 1)):
        phase = (torch.arange(size) + 1.0)[:, None] / size * 2.0 * math.pi * frequencies
        waves = torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)
        halves.append(waves.unsqueeze(1 - axis).expand(height, width, -1))
    return torch.cat(halves, dim=-1)


def _every_cell(maps: Sequence[Float[Tensor, "n c _ _"]]) -> HitQueries:
    """All cells of all scales as rows that look around their own centre, image after image."""
    images, device = len(maps[0]), maps[0].device
    centers = []
    for scale in maps:
        height, width = scale.shape[-2:]
        v, u = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        centers.append(torch.stack([u, v], dim=-1).flatten(0, 1))
    reference = torch.cat(centers)
    return points_at(reference.repeat(images, 1), [len(reference)] * images)


def points_at(reference: Float[Tensor, "n 2"], counts: list[int]) -> HitQueries:
    """Rows that look around one point each, map after map.

    Args:
        reference: (u, v) as a share of the map.
        counts: rows of each map.
    """
    rows = torch.arange(len(reference), device=reference.device)
    return HitQueries(rows, rows, reference[:, None], torch.zeros_like(reference[:, :1]), counts)


def _projection(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution (3 x 3 ones halve the map) and a norm of groups of eight channels, 32 in the host."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, outputs // 8), outputs))


def _narrow(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 1)
    )
