"""Bins of depth, and what a network says about the class and the depth of image cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from schemas.geometry import VoxelGrid


@dataclass(frozen=True)
class DepthBins:
    """Bins of depth, each a fixed factor deeper than the one before, so that errors count as shares of the depth.

    Attributes:
        nearest_m: where the first bin starts, metres; what is nearer belongs to it.
        farthest_m: where the last bin ends, metres; what is farther belongs to it.
        count: number of bins.
    """

    nearest_m: float
    farthest_m: float
    count: int

    def place(self, depth_m: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Where depths lie: bin i covers [i, i + 1); depths must be positive."""
        share = (depth_m / self.nearest_m).log() / math.log(self.farthest_m / self.nearest_m)
        return share * self.count

    def centers_m(self, like: Tensor) -> Float[Tensor, " bins"]:
        """Middle of each bin, metres, on the device of ``like``: its edges are as large a factor away."""
        shares = (torch.arange(self.count, device=like.device, dtype=torch.float32) + 0.5) / self.count
        return self.nearest_m * (shares * math.log(self.farthest_m / self.nearest_m)).exp()

    def expected_m(self, logits: Float[Tensor, "n bins h w"]) -> Float[Tensor, "n h w"]:
        """Mean depth of the predicted distributions, metres; a mean of logarithms, as the bins are."""
        logarithms = self.centers_m(logits).log()
        return (logits.float().softmax(1) * logarithms[:, None, None]).sum(1).exp()


@dataclass(frozen=True)
class UniformBins(DepthBins):
    """Bins of one width, as DFA3D has them."""

    def place(self, depth_m: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Where depths lie: bin i covers [i, i + 1)."""
        return (depth_m - self.nearest_m) / (self.farthest_m - self.nearest_m) * self.count


@dataclass(frozen=True)
class PixelLogits:
    """What the heads say about the cells of one scale.

    Attributes:
        classes: logits of the class; None without that head.
        depth: logits of the bins of depth; None without that head.
        stride: pixels per cell.
    """

    classes: Float[Tensor, "n L h w"] | None
    depth: Float[Tensor, "n bins h w"] | None
    stride: int


@dataclass(frozen=True)
class DepthShares:
    """A distribution over depth that a network reads itself: DFA3D's.

    Attributes:
        shares: probability of the group of each bin; bins of a group hold the same number.
        bins: where the bins lie; depths outside of them have no share.
        stride: pixels per cell.
    """

    shares: Float[Tensor, "n bins h w"]
    bins: UniformBins
    stride: int


@dataclass(frozen=True)
class PixelOutput:
    """What a network says about the cells of the images of a batch, n = B*V, and what it says it about.

    Attributes:
        logits: of the heads for training; None without them.
        bins: of their depth.
        depth: of a network that weighs attention by depth; None for others.
        grid: of the labels.
        free: class of free space.
    """

    logits: PixelLogits | None
    bins: DepthBins
    depth: DepthShares | None
    grid: VoxelGrid
    free: int
