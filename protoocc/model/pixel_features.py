"""Prototype-aware pixel features: voxel prototypes back on the image grid, equation (2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from protoocc.model.attention import Sampling
from protoocc.model.prototypes import START_SCALE, START_SHIFT


@torch.no_grad()
def attention_map(sampling: Sampling, grid_size: tuple[int, int]) -> Float[Tensor, "D K"]:
    """G: the attention weights of all sampling points of one camera, scattered bilinearly on the grid h' x w'.

    Heads are averaged and levels share the one grid. The map is a fixed bridge between voxels and pixels: it carries no
    gradient, as in Sparse DETR.

    Args:
        sampling: K hit queries of one camera.
        grid_size: (h', w').

    Returns:
        (D, K) with D = h' * w', at least 0; a column sums to 1 unless points leave the image.
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
    return inner.reshape(hits, height * width).T


class PixelFeatures(nn.Module):
    """X = {G . H(A)} . P_vox, equation (2), read as X = G_hat^T (sigma(H(A))^T P_vox)."""

    def __init__(self) -> None:
        """H is a linear map of the affinity with two scalars, a scale and a shift."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        self.shift = nn.Parameter(torch.tensor(START_SHIFT))

    def forward(
        self,
        attention: Float[Tensor, "D K"],
        similarity: Float[Tensor, "M K"],
        voxel_prototypes: Float[Tensor, "M d"],
    ) -> tuple[Float[Tensor, "D d"], Bool[Tensor, " D"]]:
        """Features of the grid cells of one camera.

        Args:
            attention: G, see `attention_map`.
            similarity: A, the affinity of prototypes and hit queries.
            voxel_prototypes: P_vox.

        Returns:
            X, zero where no query looked, and whether any query looked at a cell.
        """
        assignment = torch.sigmoid(self.scale * similarity + self.shift)
        total = attention.sum(dim=1, keepdim=True)
        seen = total[:, 0] > 0
        shares = attention / torch.where(total > 0, total, 1.0)
        return shares @ (assignment.mT @ voxel_prototypes), seen
