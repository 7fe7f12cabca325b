"""Earlier keyframes: voxel features warped by the ego motion and fused with the present ones (PanoOcc's host part)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from schemas.geometry import VoxelGrid


def warp(
    earlier: Float[Tensor, "B h w z d"],
    earlier_from_ego: Float[Tensor, "B 4 4"],
    centers_ego: Float[Tensor, "h w z 3"],
    grid: VoxelGrid,
) -> Float[Tensor, "B h w z d"]:
    """Features of an earlier ego frame at the places of the present queries, by trilinear interpolation.

    Args:
        earlier: encoded queries of the earlier keyframe, in its own ego frame.
        earlier_from_ego: pose of the present ego frame in the earlier one, metres.
        centers_ego: centre of each query, metres, present ego frame.
        grid: extent that the queries cut into cells.

    Returns:
        (B, h, w, z, d); zero outside the earlier grid. A grid of one cell in z ignores heights.
    """
    rotation, translation = earlier_from_ego[:, None, None, :3, :3], earlier_from_ego[:, None, None, None, :3, 3]
    points = centers_ego @ rotation.mT + translation
    low = points.new_tensor(grid.minimum_m)
    share = 2.0 * (points - low) / (points.new_tensor(grid.maximum_m) - low) - 1.0
    if earlier.shape[3] == 1:
        share = share * share.new_tensor([1.0, 1.0, 0.0])
    places = share.flip(-1).to(earlier.dtype)
    sampled = functional.grid_sample(earlier.movedim(-1, 1), places, padding_mode="zeros", align_corners=False)
    return sampled.movedim(1, -1)


class TemporalFusion(nn.Module):
    """One bottleneck block of 3D convolutions over the voxel features of all frames."""

    def __init__(self, channels: int, frames: int) -> None:
        """1x1x1, 3x3x3 and 1x1x1 convolutions with a 1x1x1 shortcut; each has a batch norm and no bias.

        Args:
            channels: channels d of a frame.
            frames: the keyframe and the earlier ones.
        """
        super().__init__()
        self.reduce = _convolution(frames * channels, channels, 1)
        self.mix = _convolution(channels, channels, 3)
        self.expand = _convolution(channels, channels, 1)
        self.shortcut = _convolution(frames * channels, channels, 1)

    def forward(self, frames: Sequence[Float[Tensor, "B h w z d"]]) -> Float[Tensor, "B h w z d"]:
        """Fused voxel features.

        Args:
            frames: the keyframe first, then the earlier ones, nearest first, all in the present ego frame.
        """
        stacked = torch.cat(list(frames), dim=-1).movedim(-1, 1)
        mixed = functional.relu(self.mix(functional.relu(self.reduce(stacked))))
        fused: Tensor = functional.relu(self.expand(mixed) + self.shortcut(stacked))
        return fused.movedim(1, -1)


def _convolution(inputs: int, outputs: int, edge: int) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, outputs, edge, padding=edge // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs))
