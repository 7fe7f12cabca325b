"""Scene queries on one flat map, heights between the cells along x, and their learned positions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional


def squeeze(scene: Float[Tensor, "B h w z d"]) -> Float[Tensor, "B d rows w"]:
    """The z-squeezed map: cell (x, y, z) lies in row x * z_cells + z and column y."""
    return scene.permute(0, 4, 1, 3, 2).flatten(2, 3)


def unsqueeze(image: Float[Tensor, "B d rows w"], heights: int) -> Float[Tensor, "B h w z d"]:
    """The inverse of `squeeze`."""
    return image.unflatten(2, (-1, heights)).permute(0, 2, 4, 3, 1)


def squeezed_place(index: Int64[Tensor, "n 3"], shape: tuple[int, int, int]) -> Float[Tensor, "n 2"]:
    """(u, v) of the centres of cells (x, y, z) on the squeezed map, as a share of it."""
    h, w, z = shape
    u = (index[:, 1] + 0.5) / w
    v = (index[:, 0] * z + index[:, 2] + 0.5) / (h * z)
    return torch.stack([u, v], dim=-1)


class SqueezedPositions(nn.Module):
    """Positions of (h, w, z) queries from three small tables, of px, py and pz finer cells along the axes.

    The tables have h * px, w * py and z / (px * py) entries of d / 2 channels. Query (x, y, z) with
    z = ((k * px + i) * py + j) * pz + m takes entry x * px + i of the first, y * py + j of the second and k * pz + m of
    the third, and a linear map of all three.
    """

    def __init__(self, query_shape: tuple[int, int, int], parts: tuple[int, int, int], channels: int) -> None:
        """Tables of deviation 1, as in the host."""
        super().__init__()
        h, w, z = query_shape
        self.shape, self.parts = query_shape, parts
        sizes = (h * parts[0], w * parts[1], z // (parts[0] * parts[1]))
        self.axes = nn.ParameterList([nn.Parameter(torch.randn(size, channels // 2)) for size in sizes])
        self.project = nn.Linear(3 * (channels // 2), channels)

    def forward(self) -> Float[Tensor, "h w z d"]:
        """Positions of all queries of a scene."""
        h, w, z = self.shape
        px, py, pz = self.parts
        weights = self.project.weight.chunk(3, dim=1)
        x, y, k = (functional.linear(table, weight) for table, weight in zip(self.axes, weights, strict=True))
        groups = z // (px * py * pz)
        along_x = x.view(h, 1, 1, px, 1, 1, -1)
        along_y = y.view(1, w, 1, 1, py, 1, -1)
        along_z = k.view(1, 1, groups, 1, 1, pz, -1)
        positions: Tensor = (along_x + along_y + along_z + self.project.bias).flatten(2, 5)
        return positions
