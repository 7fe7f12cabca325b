"""How rows and cells of deformable attention are laid out: levels within a map, and rows map after map."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from schemas.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Sizes of the levels of a map and rows of each map.

    Attributes:
        sizes: (H, W) of each level, in the order in which their cells are concatenated.
        counts: rows that look at each map, map after map.
    """

    sizes: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    def levels(self) -> list[tuple[int, int, int]]:
        """(H, W, first cell) of each level."""
        firsts = accumulate((height * width for height, width in self.sizes), initial=0)
        return [(height, width, first) for (height, width), first in zip(self.sizes, firsts, strict=False)]

    def rows(self) -> list[tuple[int, int]]:
        """(first row, last row + 1) of each map."""
        ends = list(accumulate(self.counts, initial=0))
        return list(zip(ends, ends[1:], strict=False))

    def check(self, value: Tensor, locations: Tensor, weights: Tensor) -> None:
        """The kernels trust this layout, so that a wrong one must stop here.

        Raises:
            ConfigError: shapes, devices or the layout disagree.
        """
        maps, cells, heads, _ = value.shape
        rows, levels = sum(self.counts), len(self.sizes)
        expected = {
            "maps of value": (maps, len(self.counts)),
            "cells of value": (cells, sum(height * width for height, width in self.sizes)),
            "locations": (tuple(locations.shape), (*weights.shape, 2)),
            "rows, heads and levels of weights": (tuple(weights.shape[:3]), (rows, heads, levels)),
            "devices": ({value.device, locations.device, weights.device}, {value.device}),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise ConfigError(
                    f"deformable attention: {name} is {found}, expected {wanted} from level sizes {self.sizes} "
                    f"and {len(self.counts)} maps with {rows} rows; make value, sizes, locations and counts agree"
                )
        if min((*self.counts, 0)) < 0 or min((n for size in self.sizes for n in size), default=1) < 1:
            raise ConfigError(f"deformable attention: counts must be 0 or more and sizes 1 or more, got {self}")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Float64 if any tensor is, float32 otherwise: half precision is only for storing."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
