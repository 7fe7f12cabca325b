"""Refines encoded queries over x and y, with the image detail of their cells."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from protoocc.model.config import ProtoOccConfig
from protoocc.model.unet import UNet


class Refinement(nn.Module):
    """A U-Net whose result is added to what went in."""

    def __init__(self, config: ProtoOccConfig, width: int) -> None:
        """Builds it for the lifted cells of ``config``, or for its queries where nothing is lifted."""
        super().__init__()
        channels = config.lifted_shape[2] * config.channels
        self.unet = UNet(channels, width, channels)
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, cells: Float[Tensor, "B X Y Z d"]) -> Float[Tensor, "B X Y Z d"]:
        """Refined features of the same cells."""
        change = self.unet(cells.flatten(3)).unflatten(3, cells.shape[3:])
        refined: Tensor = self.norm(cells + change)
        return refined
