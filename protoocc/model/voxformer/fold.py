"""Voxel queries folded into one image, so that attention of two dimensions reaches all three: VoxFormer's 512 x 512.

The queries stand in the order of their flat index (x * w + y) * z + height and are cut into rows: 128 x 128 x 16 become
512 x 512 with row = 4 x + y div 32 and column = (y mod 32) * 16 + height.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def fold_shape(query_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Rows and columns of the image: whole columns of voxels side by side, the shape that is nearest to a square.

    Of two shapes that are alike the wider one: 128 x 128 x 16 give 512 x 512, and 64 x 64 x 8 give 128 x 256.
    """
    h, w, z = query_shape
    cells = h * w * z
    widths = [part * z for part in range(1, w + 1) if w % part == 0]
    columns = min(reversed(widths), key=lambda width: max(width * width, cells) / min(width * width, cells))
    return cells // columns, columns


def fold(queries: Float[Tensor, "B h w z d"]) -> Float[Tensor, "B rows columns d"]:
    """The folded image of the queries; `unfold` is its inverse."""
    rows, columns = fold_shape((queries.shape[1], queries.shape[2], queries.shape[3]))
    return queries.reshape(len(queries), rows, columns, -1)


def unfold(image: Float[Tensor, "B rows columns d"], query_shape: tuple[int, int, int]) -> Float[Tensor, "B h w z d"]:
    """Queries out of their folded image."""
    return image.reshape(len(image), *query_shape, -1)


class FoldedPositions(nn.Module):
    """Learned position of each query: half of the channels tell the row of the folded image, half the column."""

    def __init__(self, query_shape: tuple[int, int, int], channels: int) -> None:
        """Tables drawn uniformly from 0 to 1, as in the host."""
        super().__init__()
        rows, columns = fold_shape(query_shape)
        self.rows = nn.Parameter(torch.rand(rows, channels // 2))
        self.columns = nn.Parameter(torch.rand(columns, channels // 2))

    def forward(self) -> Float[Tensor, "rows columns d"]:
        """The position of every cell of the folded image, the column's half first."""
        rows, columns = len(self.rows), len(self.columns)
        along = self.columns.expand(rows, -1, -1)
        return torch.cat([along, self.rows[:, None].expand(-1, columns, -1)], dim=-1)
