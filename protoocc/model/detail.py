"""What the images show at the centre of single voxels: detail that cells of several voxels cannot hold.

A voxel reads the image features where its centre lands and what the pixel heads say there: how probable it is that the
surface lies before, in or behind the voxel along the ray of its camera and, with a head of classes, which class it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.config import ProtoOccConfig
from protoocc.model.lifting import mean_of_cameras, read_images, surface_shares
from protoocc.model.projection import HitQueries
from protoocc.pixels import DepthBins, PixelLogits
from schemas.geometry import VoxelGrid

_LEAST = 1e-3
"""Share below which evidence for a class counts as none."""
_REACHES = (0.5, 1.5, 3.5)
"""Voxels before and behind the centre that count as in: the voxel itself, then with one and three neighbours."""
SHARES = 3 * len(_REACHES)
"""Features of a voxel that tell where the surface lies."""


class Detail(NamedTuple):
    """What chosen voxels read."""

    features: Float[Tensor, "n c"]
    """Image features and shares of the surface; zero where no camera sees the voxel."""
    evidence: Float[Tensor, "n L"]
    """Logarithm of the probability of each class by the pixel heads alone; zero where no camera sees the voxel."""


class DetailMaps(NamedTuple):
    """What voxels read from: maps of the finest scale of all B*V cameras."""

    features: Float[Tensor, "cameras c h w"]
    depth: Float[Tensor, "cameras bins h w"]
    """Probabilities."""
    classes: Float[Tensor, "cameras L h w"]
    """Probabilities."""


class VoxelDetail(nn.Module):
    """Reads images at the centres of voxels."""

    def __init__(self, config: ProtoOccConfig) -> None:
        """Reads as many channels as the decoder's upsampled voxels have."""
        super().__init__()
        channels = config.upsample[-1].channels
        self.free = config.free_class
        self.bins = DepthBins(*config.depth_range_m, config.depth_bins)
        self.reaches_m = [reach * config.grid.voxel_size_m for reach in _REACHES]
        self.narrow = nn.Conv2d(config.channels, channels, 1)
        self.by_depth = nn.Linear(SHARES, 2 * channels)

    def maps(self, features: Sequence[Float[Tensor, "cameras d _ _"]], told: PixelLogits) -> DetailMaps:
        """Maps to read from: all scales summed at the finest.

        Raises:
            ValueError: a head is missing.
        """
        if told.depth is None or told.classes is None:
            raise ValueError("voxel_detail needs both pixel heads")
        finest = features[0]
        summed = finest
        for scale in features[1:]:
            summed = summed + functional.interpolate(
                scale, size=finest.shape[-2:], mode="bilinear", align_corners=False
            )
        depth, classes = (logits.float().softmax(1) for logits in (told.depth, told.classes))
        return DetailMaps(self.narrow(summed), depth, classes)

    def forward(self, maps: DetailMaps, hits: HitQueries, voxels: int) -> Detail:
        """Detail of the voxels of one sample.

        Args:
            maps: of the cameras of the sample.
            hits: of the centres of the voxels.
            voxels: how many these are.
        """
        surface = surface_shares(maps.depth, hits, self.bins, self.reaches_m)
        read = read_images([maps.features], hits)
        gain, shift = self.by_depth(surface.to(read.dtype)).chunk(2, dim=-1)
        features = torch.cat([read * (1.0 + gain) + shift, surface.to(read.dtype)], dim=-1)
        classes = read_images([maps.classes], hits)
        shares = classes * surface[:, 1:2]
        free = 1.0 - surface[:, 1] * (1.0 - classes[:, self.free])
        shares = torch.cat([shares[:, : self.free], free[:, None], shares[:, self.free + 1 :]], dim=1)
        both = mean_of_cameras(torch.cat([features, (shares + _LEAST).log().to(read.dtype)], dim=-1), hits, voxels)
        return Detail(*both.split([features.shape[1], shares.shape[1]], dim=-1))


def voxel_centers(grid: VoxelGrid, place: Int64[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """Centres of voxels by their position in the flattened (X, Y, Z) volume, metres, in the frame of the grid."""
    index = torch.stack(torch.unravel_index(place, grid.shape), dim=-1)
    low = torch.tensor(grid.minimum_m, device=place.device)
    return low + (index + 0.5) * grid.voxel_size_m
