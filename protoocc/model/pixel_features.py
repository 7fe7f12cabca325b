"""Prototype-aware pixel features: voxel prototypes back on the image grid, equation (2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from protoocc.model.attention import Sampling
from protoocc.model.prototypes import START_SCALE, START_SHIFT, membership, sum_products, sum_rows, times_own


@torch.no_grad()
def attention_map(sampling: Sampling, grid_size: tuple[int, int]) -> Float[Tensor, "n D"]:
    """G: the attention weights of all sampling points of each hit, scattered bilinearly on the grid h' x w'.

    Heads are averaged and levels share the one grid. The map is a fixed bridge between voxels and pixels: it carries no
    gradient, as in Sparse DETR.

    Args:
        sampling: n hit queries, of any cameras.
        grid_size: (h', w').

    Returns:
        (n, D) with D = h' * w', at least 0; a row sums to 1 unless points leave the image. The paper's G is the
        transpose of the rows of a camera.
    """
    height, width = grid_size
    hits, heads = sampling.weights.shape[:2]
    u = (sampling.locations[..., 0].flatten(1) * width - 0.5).clamp(-1.0, width)
    v = (sampling.locations[..., 1].flatten(1) * height - 0.5).clamp(-1.0, height)
    left, top = u.floor(), v.floor()
    right_share, bottom_share = u - left, v - top
    share = sampling.weights.flatten(1).to(u.dtype) / heads
    lower = share * bottom_share
    upper = share - lower
    # One cell of border on the low side and two on the high side take what lies outside: no masks are needed.
    row_length = width + 3
    first = (top.long() + 1) * row_length + left.long() + 1
    padded = share.new_zeros(hits, (height + 3) * row_length)
    for step, side in ((0, upper), (row_length, lower)):
        padded.scatter_add_(1, first + step, side * (1.0 - right_share))
        padded.scatter_add_(1, first + step + 1, side * right_share)
    inner = padded.view(hits, height + 3, row_length)[:, 1 : height + 1, 1 : width + 1]
    return inner.reshape(hits, height * width)


class PixelFeatures(nn.Module):
    """X = {G . H(A)} . P_vox, equation (2), read as X = G_hat^T (H(A)^T P_vox)."""

    def __init__(self) -> None:
        """H is `membership` with a scale and a shift of its own."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        self.shift = nn.Parameter(torch.tensor(START_SHIFT))

    def forward(
        self,
        attention: Float[Tensor, "n D"],
        similarity: Float[Tensor, "n M"],
        voxel_prototypes: Float[Tensor, "cameras M d"],
        counts: list[int],
    ) -> tuple[Float[Tensor, "cameras D d"], Bool[Tensor, "cameras D"]]:
        """Features of the grid cells of all cameras.

        Args:
            attention: G, see `attention_map`, of the hits of all cameras, one camera after the other.
            similarity: A, the affinity of these hits and the prototypes of their camera.
            voxel_prototypes: P_vox.
            counts: how many hits each camera has.

        Returns:
            X, zero where no query looked, and whether any query looked at a cell.
        """
        assignment = membership(similarity, self.scale, self.shift)
        told = times_own(assignment, voxel_prototypes, counts)
        total = sum_rows(attention, counts)
        seen = total > 0
        return sum_products(attention, told, counts) / torch.where(seen, total, 1.0)[..., None], seen
