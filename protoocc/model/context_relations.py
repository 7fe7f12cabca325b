"""Context relations (MonoScene's 3D CRP): every cell asks all larger cells of the scene for their context."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoocc.model.convolutions3d import Bottleneck3d, DilatedPyramid


class ContextRelations(nn.Module):
    """Each of some relations is a share 0..1 of every large cell in every cell; sums by these shares are mixed back in.

    A large cell is two cells along each axis. The shares are learned from the final losses alone: MonoScene's own loss,
    which tells them for each pair of cells whether classes agree, is not part of this.
    """

    def __init__(self, channels: int, size: tuple[int, int, int], relations: int) -> None:
        """Random weights.

        Args:
            channels: of a cell; a large cell has twice as many.
            size: cells along x, y, z, two or more.
            relations: kinds of them.
        """
        super().__init__()
        large = math.prod(edge // 2 for edge in size)
        x, y, z = ((edge + 1) % 2 for edge in size)
        self.widen = DilatedPyramid(channels)
        self.large = nn.Conv3d(channels, 2 * channels, 3, stride=2, padding=(x, y, z))
        self.shares = nn.ModuleList(nn.Conv3d(channels, large, 1) for _ in range(relations))
        mixed = (2 * relations + 1) * channels
        self.mix = nn.Sequential(nn.Conv3d(mixed, channels, 1, bias=False), Bottleneck3d(channels, channels))

    def forward(self, cells: Float[Tensor, "B c X Y Z"]) -> Float[Tensor, "B c X Y Z"]:
        """The same shape."""
        wide = self.widen(cells)
        large = self.large(wide).flatten(2)
        found = [cells]
        for relation in self.shares:
            shares = torch.sigmoid(relation(wide)).flatten(2)
            found.append((large @ shares).unflatten(2, cells.shape[2:]))
        result: Tensor = self.mix(torch.cat(found, dim=1))
        return result
