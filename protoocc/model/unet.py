"""A U-Net over x and y; what stands at several heights are channels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """Three resolutions, each half of the one before."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Channels of what goes in, of the finest resolution, and of what comes out."""
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.fine = _block(width, width)
        self.middle = nn.Sequential(_block(width, 2 * width, stride=2), _block(2 * width, 2 * width))
        self.coarse = nn.Sequential(_block(2 * width, 2 * width, stride=2), _block(2 * width, 2 * width))
        self.middle_up = nn.Sequential(_Mix(4 * width, 2 * width), _block(2 * width, 2 * width))
        self.fine_up = nn.Sequential(_Mix(3 * width, width), _block(width, width))
        self.out = nn.Linear(width, outputs)

    def forward(self, plane: Float[Tensor, "B X Y inputs"]) -> Float[Tensor, "B X Y outputs"]:
        """Any size of four cells or more along each axis."""
        fine = self.fine(self.into(plane).movedim(-1, 1))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.middle_up(torch.cat([_resized(coarse, middle), middle], dim=1))
        fine = self.fine_up(torch.cat([_resized(middle, fine), fine], dim=1))
        result: Tensor = self.out(fine.movedim(1, -1))
        return result


class _Mix(nn.Linear):
    """A 1 x 1 convolution as a matrix product: torch's own copies its input on a CPU and takes several times longer."""

    def forward(self, features: Float[Tensor, "B c X Y"]) -> Float[Tensor, "B _ X Y"]:
        """Channels of each cell alone."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _resized(coarse: Float[Tensor, "B c _ _"], like: Float[Tensor, "B _ X Y"]) -> Float[Tensor, "B c X Y"]:
    return functional.interpolate(coarse, size=like.shape[-2:], mode="bilinear")
