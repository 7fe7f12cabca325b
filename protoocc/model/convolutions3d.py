"""What 3D networks of bottlenecks and dilated pyramids are made of."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Edges = tuple[int, int, int]

DILATIONS: Final = (1, 2, 3)
"""Cells from tap to tap, block after block and branch beside branch."""
_NARROW: Final = 4
"""A bottleneck works on a quarter of its channels."""


class Bottleneck3d(nn.Module):
    """A residual block that looks along z, y and x one after the other, in few channels.

    Each direction adds what the ones before found. A stride halves z, y and x with the direction that looks along them;
    what was found before is averaged to the new size.
    """

    def __init__(self, channels: int, outputs: int, *, dilation: int = 1, stride: int = 1) -> None:
        """``stride`` 1 needs as many ``outputs`` as ``channels``."""
        super().__init__()
        inner = channels // _NARROW
        self.reduce = convolution(channels, inner, (1, 1, 1))
        self.along_z = convolution(inner, inner, (1, 1, 3), dilation=dilation, stride=(1, 1, stride))
        self.along_y = convolution(inner, inner, (1, 3, 1), dilation=dilation, stride=(1, stride, 1))
        self.along_x = convolution(inner, inner, (3, 1, 1), dilation=dilation, stride=(stride, 1, 1))
        self.z_past_y = halving_shortcut(inner, inner, (1, stride, 1))
        self.z_past_x = halving_shortcut(inner, inner, (stride, 1, 1))
        self.y_past_x = halving_shortcut(inner, inner, (stride, 1, 1))
        self.expand = convolution(inner, outputs, (1, 1, 1))
        self.shortcut = halving_shortcut(channels, outputs, (stride, stride, stride))

    def forward(self, volume: Float[Tensor, "B c X Y Z"]) -> Float[Tensor, "B _ _ _ _"]:
        """Edges are divided by the stride."""
        z = self.along_z(functional.relu(self.reduce(volume)))
        y = self.along_y(functional.relu(z))
        z = self.z_past_y(z)
        y = y + z
        x = self.along_x(functional.relu(y)) + self.y_past_x(y) + self.z_past_x(z)
        return functional.relu(self.expand(functional.relu(x)) + self.shortcut(volume))


class DilatedPyramid(nn.Module):
    """Two convolutions for each dilation, side by side; their sum is added to what went in."""

    def __init__(self, channels: int) -> None:
        """As many branches as `DILATIONS`."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                convolution(channels, channels, (3, 3, 3), dilation=dilation),
                nn.ReLU(),
                convolution(channels, channels, (3, 3, 3), dilation=dilation),
            )
            for dilation in DILATIONS
        )

    def forward(self, volume: Float[Tensor, "B c X Y Z"]) -> Float[Tensor, "B c X Y Z"]:
        """The same shape."""
        found = torch.stack([branch(volume) for branch in self.branches]).sum(0)
        return functional.relu(found + volume)


def convolution(inputs: int, outputs: int, kernel: Edges, *, dilation: int = 1, stride: Edges = (1, 1, 1)) -> nn.Module:
    """A convolution without bias that keeps the edges but for the stride, and a norm."""
    x, y, z = (dilation * (edge // 2) for edge in kernel)
    layer = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=(x, y, z), dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm3d(outputs))


def halving_shortcut(inputs: int, outputs: int, stride: Edges) -> nn.Module:
    """Means over blocks of the stride's size, mixed anew; nothing where no edge is divided."""
    if max(stride) == 1:
        return nn.Identity()
    return nn.Sequential(nn.AvgPool3d(stride, stride=stride), convolution(inputs, outputs, (1, 1, 1)))
