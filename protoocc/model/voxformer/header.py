"""VoxFormer's header: trilinear upsampling, a norm and one linear map, for the voxels that are asked for."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.decoder import classifier_bias
from protoocc.model.voxformer.config import VoxFormerConfig


class TrilinearHeader(nn.Module):
    """Class logits of voxels of the grid from voxel queries, whose corner cells lie on the corners of the grid.

    Voxel i of X voxels reads place i * (h - 1) / (X - 1) of h queries, as in the host (``align_corners``).
    """

    def __init__(self, config: VoxFormerConfig) -> None:
        """The classifier starts at the prior of free space."""
        super().__init__()
        self.grid_shape = config.grid.shape
        self.norm = nn.LayerNorm(config.channels)
        self.label = nn.Linear(config.channels, config.num_classes)
        with torch.no_grad():
            self.label.bias.copy_(classifier_bias(config.num_classes, config.free_class, config.free_prior))

    def forward(
        self, queries: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"], at_once: int
    ) -> Float[Tensor, "n L"]:
        """Logits of voxels, positions in the flattened (B, X, Y, Z) volume, so many of one sample at a time."""
        per_volume = math.prod(self.grid_shape)
        sample = torch.div(voxels, per_volume, rounding_mode="floor")
        order = torch.argsort(sample, stable=True)
        counts = torch.bincount(sample, minlength=len(queries)).tolist()
        places = (voxels - sample * per_volume).index_select(0, order).split(counts)
        logits = [
            self.label(self.norm(self._sample(volume, part)))
            for volume, place in zip(queries, places, strict=True)
            for part in place.split(at_once)
        ]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return torch.cat(logits).index_select(0, back)

    def _sample(self, queries: Float[Tensor, "h w z d"], place: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        steps = [2.0 / max(voxels - 1, 1) for voxels in self.grid_shape]
        index = torch.stack(torch.unravel_index(place, self.grid_shape), dim=-1)
        shares = index.to(queries.dtype) * torch.tensor(steps, device=queries.device, dtype=queries.dtype) - 1.0
        grid = shares.flip(-1)[None, None, None]  # torch names the last axis first
        volume = queries.movedim(-1, 0)[None]
        sampled = functional.grid_sample(volume, grid, padding_mode="border", align_corners=True)
        return sampled[0, :, 0, 0].mT
