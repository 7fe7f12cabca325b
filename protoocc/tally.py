"""Everything that is counted about one predictor: voxels by mask, range, distance and height, and rays.

All counts are whole numbers that are added up, so neither the order of the samples nor how many are counted at a time
changes a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from protoocc.labels import check_labels
from protoocc.metrics import Confusion
from protoocc.ray_iou import RayConfusion
from protoocc.zones import Zones
from schemas.classes import ClassTable

Mask = Literal["camera", "lidar", "none"]
MASKS: Final[tuple[Mask, ...]] = get_args(Mask)
"""Voxels that are scored: those with mask_camera (the benchmark), with mask_lidar, or all; never those of unknown
class."""
_SEEN: Final[dict[Mask, list[int]]] = {"camera": [1, 3], "lidar": [2, 3], "none": [0, 1, 2, 3]}
"""Rows of the counts that a mask takes: a row is mask_camera + 2 mask_lidar."""


@dataclass(frozen=True)
class Truth:
    """Labels of one sample."""

    semantics: UInt8[np.ndarray, "X Y Z"]
    """Class of each voxel, which may be unknown."""
    mask_camera: Bool[np.ndarray, "X Y Z"]
    mask_lidar: Bool[np.ndarray, "X Y Z"]


class Tally:
    """Counts of (label, prediction) pairs for each combination of masks and each zone, and of rays."""

    def __init__(self, classes: ClassTable, zones: Zones) -> None:
        """Starts without counts.

        Args:
            classes: table of the labels.
            zones: of their grid.
        """
        self.classes = classes
        self.zones = zones
        self.rays = RayConfusion(classes)
        self.unknown = 0
        """Voxels of known class that were predicted as unknown and count as free."""
        places = (len(_SEEN["none"]), zones.shells, len(zones.rings), len(zones.bands))
        shape = (*places, classes.num_classes, classes.num_classes)
        self.counts: Int64[np.ndarray, "4 shells rings bands L L"] = np.zeros(shape, np.int64)

    def add(self, prediction: UInt8[np.ndarray, "X Y Z"], truth: Truth) -> None:
        """Counts the voxels of one sample.

        Args:
            prediction: class of each voxel.
            truth: its labels.

        Raises:
            DataError: a class outside the table.
        """
        known = truth.semantics != self.classes.ignored
        label, predicted = truth.semantics[known], prediction[known]
        check_labels("label", label, self.classes, may_be_unknown=False)
        check_labels("prediction", predicted, self.classes, may_be_unknown=False)
        seen = truth.mask_camera[known] + 2 * truth.mask_lidar[known].astype(np.int64)
        places = seen * np.prod(self.counts.shape[1:4]) + self.zones.index[known]
        pairs = (places * self.classes.num_classes + label) * self.classes.num_classes + predicted
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def __iadd__(self, other: Tally) -> Tally:
        """Adds the counts of other samples."""
        self.counts += other.counts
        self.rays += other.rays
        self.unknown += other.unknown
        return self

    def confusion(
        self, mask: Mask, *, within: int | None = None, ring: int | None = None, band: int | None = None
    ) -> Confusion:
        """The voxels that a mask scores, within one range, in one ring of distance or one band of height or in all."""
        shells = slice(None) if within is None else slice(within + 1)
        rings, bands = (slice(None) if number is None else [number] for number in (ring, band))
        confusion = Confusion(self.classes)
        confusion.counts += self.counts[_SEEN[mask]][:, shells][:, :, rings][:, :, :, bands].sum(axis=(0, 1, 2, 3))
        return confusion
