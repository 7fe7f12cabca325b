"""What follows the layers of Symphonies: dilated convolutions over the scene, and its own upsampling head."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.decoder import classifier_bias
from protoocc.model.symphonies.config import SymphoniesConfig


class DilatedSum(nn.Module):
    """ReLU of the scene plus a block of two dilated 3 x 3 x 3 convolutions for each dilation (ASPP)."""

    def __init__(self, channels: int, dilations: tuple[int, ...]) -> None:
        """Random weights."""
        super().__init__()
        self.blocks = nn.ModuleList([_block(channels, dilation) for dilation in dilations])

    def forward(self, scene: Float[Tensor, "B h w z d"]) -> Float[Tensor, "B h w z d"]:
        """The scene, each cell with its neighbourhood."""
        volume = scene.movedim(-1, 1)
        total = volume
        for block in self.blocks:
            total = total + block(volume)
        return functional.relu(total).movedim(1, -1)


def _block(channels: int, dilation: int) -> nn.Sequential:
    def convolution() -> nn.Conv3d:
        return nn.Conv3d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)

    return nn.Sequential(convolution(), nn.BatchNorm3d(channels), nn.ReLU(), convolution(), nn.BatchNorm3d(channels))


class OwnHead(nn.Module):
    """Transposed 3 x 3 x 3 convolutions that double the height, then all axes; a linear classifier of voxels.

    The whole grid is upsampled, whichever voxels are asked for.
    """

    def __init__(self, config: SymphoniesConfig) -> None:
        """The classifier starts at the prior of free space."""
        super().__init__()
        height_only, every = config.doublings
        strides = [(1, 1, 2)] * height_only + [(2, 2, 2)] * every
        self.stages = nn.Sequential(*[_doubling(config.channels, stride) for stride in strides])
        self.label = nn.Linear(config.channels, config.num_classes)
        with torch.no_grad():
            self.label.bias.copy_(classifier_bias(config.num_classes, config.free_class, config.free_prior))

    def forward(
        self, scene: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n L"]:
        """Logits of voxels, positions in the flattened (B, X, Y, Z) volume; None for all."""
        cells = self.stages(scene.movedim(-1, 1)).movedim(1, -1).flatten(0, 3)
        logits: Tensor = self.label(cells if voxels is None else cells.index_select(0, voxels))
        return logits


def _doubling(channels: int, stride: tuple[int, int, int]) -> nn.Sequential:
    x, y, z = (step - 1 for step in stride)
    convolution = nn.ConvTranspose3d(channels, channels, 3, stride=stride, padding=1, output_padding=(x, y, z))
    return nn.Sequential(convolution, nn.BatchNorm3d(channels), nn.ReLU())
