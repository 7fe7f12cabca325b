"""How far the LiDAR sees in labels and in truth: depth of the first occupied voxel against that of each return.

Rays run from the LiDAR's position through the returns of the keyframe's own sweep. Where a ray enters its first
occupied voxel is the depth that the labels show; a ray that meets none ends where it leaves the grid. Returns count
where they and the LiDAR lie in the grid and they are farther than `NEAR_M`.

Voxels cost something in themselves: a ray that grazes the ground enters a voxel of it metres before it meets it. So the
same figures of the voxels that hold those very returns stand beside, as the floor.

Source: the protocol of github.com/boschresearch/evidential-occupancy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from schemas.geometry import VoxelGrid
from schemas.voxels.first_hit import first_hits

NEAR_M: Final = 2.5
"""Returns nearer than this are left out, in metres."""
ASIDE_M: Final = 0.8
"""A depth that differs by more is early or late, in metres."""
RATIO: Final = 1.25
"""Two depths are alike if neither is more than so many times the other (also its square and its cube)."""


@dataclass(frozen=True)
class DepthErrors:
    """Sums over returns r, with depth m in the labels; add two with `+`."""

    returns: int = 0
    absolute_m: float = 0.0
    """Sum of |r - m|."""
    squared_m2: float = 0.0
    """Sum of (r - m)^2."""
    squared_log: float = 0.0
    """Sum of (ln r - ln m)^2."""
    relative: float = 0.0
    """Sum of |r - m| / r."""
    within: int = 0
    """Returns with max(r / m, m / r) < 1.25."""
    within_2: int = 0
    """The same with 1.25^2."""
    within_3: int = 0
    """The same with 1.25^3."""
    early: int = 0
    """Returns with m < r - `ASIDE_M`."""
    late: int = 0
    """Returns with m > r + `ASIDE_M`."""

    def __add__(self, other: DepthErrors) -> DepthErrors:
        return DepthErrors(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def figures(self) -> dict[str, float | None]:
        """The protocol's figures by name, metres where the name says so; None without returns."""
        count = self.returns or np.nan
        values = {
            "mae_m": self.absolute_m / count,
            "rmse_m": (self.squared_m2 / count) ** 0.5,
            "rmse_log": (self.squared_log / count) ** 0.5,
            "relative": self.relative / count,
            "within_1.25": self.within / count,
            "within_1.25^2": self.within_2 / count,
            "within_1.25^3": self.within_3 / count,
            "early": self.early / count,
            "late": self.late / count,
        }
        return {name: float(value) if self.returns else None for name, value in values.items()}


def depth_errors(
    occupied: Bool[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    lidar: Float64[np.ndarray, " 3"],
    returns: Float64[np.ndarray, "n 3"],
) -> DepthErrors:
    """Errors of one keyframe.

    Args:
        occupied: voxels that stop a ray.
        grid: of ``occupied``.
        lidar: (3,) position of the LiDAR, metres, frame of the grid.
        returns: (N, 3) what it measured, metres, frame of the grid.
    """
    offsets = returns - lidar
    true_m = np.linalg.norm(offsets, axis=1)
    inside = grid.contains(grid.voxel_index(np.concatenate([lidar[None], returns])))
    counted = inside[1:] & inside[0] & (true_m > NEAR_M)
    true_m, directions = true_m[counted], offsets[counted] / true_m[counted, None]
    start = (lidar - np.array(grid.minimum_m)) / grid.voxel_size_m
    hits = first_hits(occupied, start[None], directions)
    shown_m = np.where(hits.is_hit, hits.enters, hits.leaves)[0] * grid.voxel_size_m
    return _sum_up(true_m, np.maximum(shown_m, 1e-3))


def floor_errors(grid: VoxelGrid, lidar: Float64[np.ndarray, " 3"], returns: Float64[np.ndarray, "n 3"]) -> DepthErrors:
    """Errors of the voxels that hold the returns themselves: what the size of the voxels costs; as `depth_errors`."""
    occupied = np.zeros(grid.shape, dtype=bool)
    index = grid.voxel_index(returns)
    occupied[tuple(index[grid.contains(index)].T)] = True
    return depth_errors(occupied, grid, lidar, returns)


def _sum_up(true_m: Float64[np.ndarray, " n"], shown_m: Float64[np.ndarray, " n"]) -> DepthErrors:
    late_m = shown_m - true_m
    ratio = np.maximum(true_m / shown_m, shown_m / true_m)
    return DepthErrors(
        returns=len(true_m),
        absolute_m=float(np.abs(late_m).sum()),
        squared_m2=float((late_m**2).sum()),
        squared_log=float((np.log(ratio) ** 2).sum()),
        relative=float((np.abs(late_m) / true_m).sum()),
        within=int((ratio < RATIO).sum()),
        within_2=int((ratio < RATIO**2).sum()),
        within_3=int((ratio < RATIO**3).sum()),
        early=int((late_m < -ASIDE_M).sum()),
        late=int((late_m > ASIDE_M).sum()),
    )
