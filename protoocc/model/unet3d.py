"""A U-Net over x, y and z of three resolutions, and the head that classifies voxels (MonoScene's 3D part)."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.context_relations import ContextRelations
from protoocc.model.convolutions3d import DILATIONS, Bottleneck3d, DilatedPyramid

DIVISOR: Final = 4
"""Edges of the volume are halved twice."""


class UNet3d(nn.Module):
    """Encoder of bottlenecks with growing dilation, context of the coarsest resolution, decoder that adds."""

    def __init__(self, width: int, size: tuple[int, int, int], relations: int) -> None:
        """Random weights.

        Args:
            width: channels at the finest resolution; twice and four times as many below.
            size: cells of the finest resolution, multiples of `DIVISOR`.
            relations: of the context (`ContextRelations`); 0 for a dilated pyramid in its place.
        """
        super().__init__()
        self.to_middle = _encoder(width)
        self.to_coarse = _encoder(2 * width)
        x, y, z = (edge // DIVISOR for edge in size)
        self.context = ContextRelations(4 * width, (x, y, z), relations) if relations else DilatedPyramid(4 * width)
        self.up_middle = doubling(4 * width, 2 * width)
        self.up_fine = doubling(2 * width, width)

    def forward(self, volume: Float[Tensor, "B c X Y Z"]) -> Float[Tensor, "B c X Y Z"]:
        """Features of the same cells."""
        middle = self.to_middle(volume)
        coarse = self.context(self.to_coarse(middle))
        middle = self.up_middle(coarse) + middle
        result: Tensor = self.up_fine(middle) + volume
        return result


class VoxelHead(nn.Module):
    """Class logits of voxels: a convolution, a dilated pyramid and another convolution."""

    def __init__(self, channels: int, classes: int, bias: Float[Tensor, " L"]) -> None:
        """``bias``: logits at the start."""
        super().__init__()
        self.mix = nn.Conv3d(channels, channels, 3, padding=1)
        self.pyramid = DilatedPyramid(channels)
        self.label = nn.Conv3d(channels, classes, 3, padding=1)
        with torch.no_grad():
            if self.label.bias is not None:
                self.label.bias.copy_(bias)

    def forward(self, volume: Float[Tensor, "B c X Y Z"]) -> Float[Tensor, "B L X Y Z"]:
        """Logits."""
        logits: Tensor = self.label(self.pyramid(functional.relu(self.mix(volume))))
        return logits


def doubling(inputs: int, outputs: int) -> nn.Sequential:
    """A transposed convolution to twice the edges, with norm and ReLU."""
    layer = nn.ConvTranspose3d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(layer, nn.BatchNorm3d(outputs), nn.ReLU())


def _encoder(width: int) -> nn.Sequential:
    blocks = [Bottleneck3d(width, width, dilation=dilation) for dilation in DILATIONS]
    return nn.Sequential(*blocks, Bottleneck3d(width, 2 * width, stride=2))
