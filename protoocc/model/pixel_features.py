"""Prototype-aware pixel features: voxel prototypes back on the image grid, equation (2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from protoocc.model.attention import Sampling
from protoocc.model.deformable.spread import spread
from protoocc.model.prototypes import START_SCALE, START_SHIFT, membership, times_own


def shares_of_cells(
    rows: Float[Tensor, "n d"], sampling: Sampling, grid_size: tuple[int, int], counts: list[int]
) -> Float[Tensor, "cameras D d"]:
    """G . rows of each camera, with G (D, K) the attention weights of all sampling points, bilinearly on the grid.

    Heads are averaged and levels share the one grid. G is a fixed bridge between voxels and pixels: it carries no
    gradient, as in Sparse DETR. A column of it sums to 1 unless points leave the image.

    Args:
        rows: one for each hit, camera after camera.
        sampling: where these hits looked.
        grid_size: (h', w'), D = h' * w'.
        counts: how many hits each camera has.
    """
    heads = sampling.weights.shape[1]
    return spread(rows, grid_size, sampling.locations.flatten(1, 3), sampling.weights.flatten(1) / heads, counts)


class PixelFeatures(nn.Module):
    """X = {G . H(A)} . P_vox, equation (2), read as X = G_hat^T (H(A)^T P_vox)."""

    def __init__(self) -> None:
        """H is `membership` with a scale and a shift of its own."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        self.shift = nn.Parameter(torch.tensor(START_SHIFT))

    def forward(
        self,
        sampling: Sampling,
        grid_size: tuple[int, int],
        similarity: Float[Tensor, "n M"],
        voxel_prototypes: Float[Tensor, "cameras M d"],
        counts: list[int],
    ) -> tuple[Float[Tensor, "cameras D d"], Bool[Tensor, "cameras D"]]:
        """Features of the grid cells of all cameras.

        Args:
            sampling: where the hits of all cameras looked, one camera after the other: G, see `shares_of_cells`.
            grid_size: (h', w'), D = h' * w'.
            similarity: A, the affinity of these hits and the prototypes of their camera.
            voxel_prototypes: P_vox.
            counts: how many hits each camera has.

        Returns:
            X, zero where no query looked, and whether any query looked at a cell.
        """
        assignment = membership(similarity, self.scale, self.shift)
        told = times_own(assignment, voxel_prototypes, counts)
        looked = sampling.weights.new_ones(len(told), 1)
        total = shares_of_cells(looked, sampling, grid_size, counts)
        seen = total > 0
        cells = shares_of_cells(told, sampling, grid_size, counts)
        return cells / torch.where(seen, total, 1.0), seen[..., 0]
