"""Are imported labels what they say? Shares that right labels have, measured in every keyframe before it is stored.

Wrong class numbers, inverted masks and swapped axes all make valid arrays, so only their contents can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

from pipelines.occupancy.evidence import box_places, return_places
from pipelines.occupancy.layouts import LAYOUTS, MASKS, LayoutName
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.orientation import Fit, best_other_fit
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.geometry import VoxelGrid
from schemas.outside import Source
from schemas.records import SampleRecord

MIN_FREE: Final = 0.2
"""Share of the voxels of known class that must be free."""
NEAR_M: Final = 10.0
FAR_M: Final = 30.0
"""Masks are measured within `NEAR_M` of the vehicle, seen from above, and beyond `FAR_M`."""
MAX_FAR_EXCESS: Final = 0.05
"""By how much more a mask may mark far away than near the vehicle."""
MIN_OBSERVED: Final = 0.5
"""Share of the voxels with LiDAR returns that mask_lidar must mark."""
MIN_RETURNS: Final = 0.6
MIN_ADVANTAGE: Final = 0.25
"""Labels belong elsewhere if fewer voxels with LiDAR returns than `MIN_RETURNS` are occupied and the next best order of
the axes does not lose at least `MIN_ADVANTAGE` of them. (Thin labels of the right place lose more; on flat, empty land
no order loses much, but the ground under the returns is occupied.)"""
MAX_GAIN: Final = 0.05
"""By how much more returns or boxes may fit the labels in another order of their axes."""
MIN_PLACES: Final = {"returns": 200, "boxes": 8}
"""Fewer voxels with returns, or boxes, say nothing about a keyframe."""


@dataclass(frozen=True)
class Shares:
    """What is measured in the labels of one keyframe; None where nothing could be measured."""

    free: float | None
    """Free voxels among those of known class."""
    near: dict[str, float]
    far: dict[str, float]
    """Voxels that each mask marks near the vehicle and far from it."""
    returns: Fit | None
    """Voxels with LiDAR returns that are occupied."""
    returns_observed: float | None
    """Voxels with LiDAR returns that mask_lidar marks; None if it marks nothing at all."""
    boxes: Fit | None
    """Boxes that hold a voxel of a thing; only where no returns are there."""

    @property
    def is_measured(self) -> bool:
        """Whether anything that was measured outside the labels took part."""
        return self.returns is not None or self.boxes is not None


def measure_shares(dataset: DatasetSpec, record: SampleRecord, labels: Labels) -> Shares:
    """Shares of one keyframe.

    Args:
        dataset: root, grid, class table.
        record: the keyframe; its LiDAR file is read where it is there.
        labels: of the keyframe.

    Raises:
        DataError: the LiDAR file is broken.
    """
    semantics, table = labels["semantics"], dataset.classes
    known = int((semantics != table.ignored).sum())
    near, far = _distance_zones(dataset.grid)
    places = return_places(dataset, record)
    has_returns = places is not None and len(places) >= MIN_PLACES["returns"]
    returns = best_other_fit(semantics != table.free, places) if places is not None and has_returns else None
    observed = None
    if places is not None and has_returns and labels["mask_lidar"].any():
        observed = float((labels["mask_lidar"][tuple(places[:, 0].T)] != 0).mean())
    return Shares(
        free=float((semantics == table.free).sum() / known) if known else None,
        near={name: _share(labels[name], near) for name in MASKS},
        far={name: _share(labels[name], far) for name in MASKS},
        returns=returns,
        returns_observed=observed,
        boxes=None if has_returns else _fit_boxes(dataset, record, semantics),
    )


def _distance_zones(grid: VoxelGrid) -> tuple[Bool[np.ndarray, "X Y"], Bool[np.ndarray, "X Y"]]:
    """Columns near the vehicle and far from it."""
    x_m, y_m = (
        low + (np.arange(count) + 0.5) * grid.voxel_size_m
        for low, count in zip(grid.minimum_m[:2], grid.shape[:2], strict=True)
    )
    distance_m = np.hypot(x_m[:, None], y_m[None, :])
    return distance_m < NEAR_M, distance_m > FAR_M


def _share(mask: UInt8[np.ndarray, "X Y Z"], zone: Bool[np.ndarray, "X Y"]) -> float:
    return float(mask[zone].mean()) if zone.any() else float("nan")


def _fit_boxes(dataset: DatasetSpec, record: SampleRecord, semantics: UInt8[np.ndarray, "X Y Z"]) -> Fit | None:
    places = box_places(dataset, record)
    if len(places) < MIN_PLACES["boxes"]:
        return None
    table = dataset.classes
    nothing = [table.free, table.ignored, *table.labels_of(table.stuff).tolist()]
    return best_other_fit(~np.isin(semantics, nothing), places)


def check_plausible(
    dataset: DatasetSpec, record: SampleRecord, labels: Labels, source: Source, layout: LayoutName | None = None
) -> Shares:
    """Refuses labels that cannot be right.

    Args:
        dataset: root, grid, class table.
        record: the keyframe.
        labels: as they were read.
        source: the file, for messages.
        layout: of the file; None for lists of voxels.

    Returns:
        What was measured.

    Raises:
        DataError: free space is missing, a mask is inverted, axes are in another order, or LiDAR returns lie elsewhere;
            says the measured shares and what right labels have. Or the LiDAR file is broken.
    """
    shares = measure_shares(dataset, record, labels)
    reason = (
        _doubt_free(shares, labels["semantics"], dataset.classes, layout)
        or _doubt_masks(shares)
        or _doubt_axes(shares)
        or _doubt_place(shares)
    )
    if reason is not None:
        raise source.error(f"the labels cannot be right: {reason}")
    return shares


def _doubt_free(
    shares: Shares, semantics: UInt8[np.ndarray, "X Y Z"], table: ClassTable, layout: LayoutName | None
) -> str | None:
    if shares.free is None or MIN_FREE <= shares.free < 1:
        return None
    if shares.free == 1:
        return "no voxel is occupied, every known one is free"
    counts = np.bincount(semantics.ravel(), minlength=256)
    counts[table.ignored] = 0
    most = int(counts.argmax())
    reason = (
        f"{shares.free:.1%} of their voxels are free ({table.names[table.free]}) and {counts[most] / counts.sum():.1%} "
        f"{table.names[most]}; of right ones at least {MIN_FREE:.0%} are free"
    )
    others = [f"--source {name}" for name in LAYOUTS if name != layout]
    return f"{reason}. If they number their classes otherwise, such as free = 16, try {' or '.join(others)}"


def _doubt_masks(shares: Shares) -> str | None:
    for name in MASKS:
        if shares.far[name] - shares.near[name] > MAX_FAR_EXCESS:
            return (
                f"{name} marks {shares.near[name]:.1%} of the voxels within {NEAR_M:.0f} m of the vehicle and "
                f"{shares.far[name]:.1%} of those beyond {FAR_M:.0f} m, as if it were inverted; it marks with 1 what "
                "was observed, which is more near the vehicle"
            )
    return None


def _doubt_axes(shares: Shares) -> str | None:
    fits = {
        "voxels with LiDAR returns of the keyframe are occupied": shares.returns,
        "annotated boxes hold a voxel of a thing": shares.boxes,
    }
    for what, fit in fits.items():
        if fit is not None and fit.gain > MAX_GAIN:
            return (
                f"{what}: {fit}. Their axes seem to be in another order than x forward, y left, z up from the lower "
                "corner of the grid"
            )
    return None


def _doubt_place(shares: Shares) -> str | None:
    returns = shares.returns
    if returns is not None and returns.share < MIN_RETURNS and returns.gain > -MIN_ADVANTAGE:
        return (
            f"voxels with LiDAR returns of the keyframe are occupied: {returns}; of right ones at least "
            f"{MIN_RETURNS:.0%} are, and clearly fewer in any other order of the axes. Check that the files belong to "
            "these keyframes, this grid and this frame"
        )
    if shares.returns_observed is not None and shares.returns_observed < MIN_OBSERVED:
        return (
            f"mask_lidar marks {shares.returns_observed:.1%} of the voxels that hold LiDAR returns of the keyframe, of "
            f"right ones at least {MIN_OBSERVED:.0%}; it marks with 1 what was observed"
        )
    return None
