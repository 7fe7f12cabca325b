"""Heads that tell the class and the depth of image cells: what pretraining and auxiliary losses teach the features."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from protoocc.model.image_config import ImageConfig
from protoocc.pixels import DepthBins, PixelLogits

FINE_STRIDE: Final = 8
"""A network's own heads read the scale with so many pixels per cell, or the next one."""


class PixelHeads(nn.Module):
    """Class and depth of the cells of image features: a 3 x 3 convolution, ReLU and a 1 x 1 convolution each."""

    def __init__(self, config: ImageConfig, *, classes: bool, depth: bool) -> None:
        """Builds the heads that are asked for."""
        super().__init__()
        self.stride = min(config.strides, key=lambda stride: (abs(stride - FINE_STRIDE), stride))
        self.bins = DepthBins(*config.depth_range_m, config.depth_bins)
        self.classes = _head(config.channels, config.num_classes) if classes else None
        self.depth = _head(config.channels, config.depth_bins) if depth else None

    def forward(self, features: Float[Tensor, "n d h w"], stride: int) -> PixelLogits:
        """Logits of each cell.

        Args:
            features: of one scale.
            stride: its pixels per cell.
        """
        classes = self.classes(features) if self.classes is not None else None
        depth = self.depth(features) if self.depth is not None else None
        return PixelLogits(classes, depth, stride)


def network_heads(config: ImageConfig) -> PixelHeads | None:
    """The heads that a network's settings ask for; None for neither."""
    if not (config.pixel_classes or config.pixel_depth):
        return None
    return PixelHeads(config, classes=config.pixel_classes, depth=config.pixel_depth)


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, outputs, 1))
