"""RayIoU: do the rays of a LiDAR meet the right class at the right distance? Computed on the CPU, in one walk.

Rays of a made-up LiDAR start at its places at the keyframes of the scene, walk through labels and prediction, and are
compared where they stop. A surface that is predicted several voxels thick earns nothing, unlike in mIoU; no mask takes
part.

Source: SparseOcc (arXiv 2312.17118), section 3.4, and its published evaluation, whose conventions are kept: the
distance of a hit is where the ray leaves the voxel, a ray that meets nothing ends with the last voxel of the grid, and
where two faces are met at once z goes before y before x. Three rare cases differ: labels of unknown class let rays
through (Occ3D has none), a place less than a voxel outside the grid is not moved into it, and a ray that misses the
grid ends free (there it takes the class of the grid's first voxel).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from protoocc.labels import check_labels
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid
from schemas.voxels.first_hit import first_hits

THRESHOLDS_M: Final = (1.0, 2.0, 4.0)
"""A prediction counts if its distance differs by less from that of the label."""
_AZIMUTHS: Final = 360
_HIGHEST_RAD: Final = 0.21


@dataclass(frozen=True)
class RayScores:
    """Shares 0..1; NaN where no ray meets any class.

    Attributes:
        ray_iou: mean of the entries of ``at``, over all classes and thresholds together.
        at: mean over the classes at each of `THRESHOLDS_M`.
        classes: mean over the thresholds by class name, free space left out; NaN where the class is absent.
        rays: number of compared rays.
    """

    ray_iou: float
    at: Mapping[float, float]
    classes: Mapping[str, float]
    rays: int


@cache
def ray_directions() -> Float32[np.ndarray, "r 3"]:
    """Unit vectors of the 14,040 rays, ego frame: 39 pitches times 360 azimuths, in this order.

    The first ten pitches meet flat ground 1, 2 .. 10 units of the LiDAR's height away; the last step goes on above.
    """
    pitches = [-(math.pi / 2 - math.atan(distance + 1)) for distance in range(10)]
    while pitches[-1] < _HIGHEST_RAD:
        pitches.append(pitches[-1] + (pitches[-1] - pitches[-2]))
    azimuths = np.deg2rad(np.arange(_AZIMUTHS))
    pitch, azimuth = (axis.ravel() for axis in np.meshgrid(pitches, azimuths, indexing="ij"))
    level = np.cos(pitch)
    rays = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(pitch)], axis=1)
    return rays.astype(np.float32)


@dataclass(frozen=True)
class RayEnds:
    """Where the rays of one volume end; axis n: all rays of all places."""

    labels: UInt8[np.ndarray, " n"]
    """Class of the voxel; free for rays that meet nothing."""
    distances_m: Float32[np.ndarray, " n"]
    """Where the ray leaves that voxel, metres."""


def cast_rays(
    volume: UInt8[np.ndarray, "X Y Z"], places_m: Float64[np.ndarray, "o 3"], classes: ClassTable, grid: VoxelGrid
) -> RayEnds:
    """Walks all rays from all places to the first voxel that is not free.

    The walk prefers the first axis where faces are met at once, so it is asked in the order z, y, x. Starts, ends and
    distances are rounded to 32 bits as in the published program, which decides rays that graze a face.

    Args:
        volume: class of each voxel.
        places_m: where the rays start, see `protoocc.ray_places.lidar_places`.
        classes: tells which class is free.
        grid: of the volume.
    """
    occupied = np.ascontiguousarray(classes.is_occupied(volume).transpose(2, 1, 0))
    labels, distances = [], []
    for place_m in places_m:
        start, directions = _in_voxels(place_m, grid)
        met = first_hits(occupied, start[None, ::-1].copy(), directions[:, ::-1].copy())
        z, y, x = np.moveaxis(met.voxels[0], -1, 0)
        labels.append(np.where(met.is_hit[0], volume[x, y, z], np.uint8(classes.free)))
        distances.append(met.leaves[0].astype(np.float32) * np.float32(grid.voxel_size_m))
    return RayEnds(
        np.concatenate(labels) if labels else np.zeros(0, np.uint8),
        np.concatenate(distances) if distances else np.zeros(0, np.float32),
    )


def _in_voxels(
    place_m: Float64[np.ndarray, " 3"], grid: VoxelGrid
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "r 3"]]:
    """Start and unit directions of the rays of one place, voxel units."""
    low, size = (np.asarray(value, np.float32).astype(np.float64) for value in (grid.minimum_m, grid.voxel_size_m))
    start = ((place_m - low) / size).astype(np.float32).astype(np.float64)
    ends = ((ray_directions() + place_m - low) / size).astype(np.float32).astype(np.float64)
    lengths = np.sqrt(((ends - start) ** 2).sum(axis=1, keepdims=True))
    return start, (ends - start) / lengths


class RayConfusion:
    """Counts of rays by class, added up sample by sample."""

    def __init__(self, classes: ClassTable) -> None:
        """Starts without counts, for labels of one class table."""
        self.classes = classes
        self.hits: Int64[np.ndarray, "t L"] = np.zeros((len(THRESHOLDS_M), classes.num_classes), np.int64)
        self.labelled: Int64[np.ndarray, " L"] = np.zeros(classes.num_classes, np.int64)
        self.predicted: Int64[np.ndarray, " L"] = np.zeros(classes.num_classes, np.int64)

    def add(self, predicted: RayEnds, labelled: RayEnds) -> None:
        """Counts one sample.

        Args:
            predicted: rays in the prediction of the whole grid.
            labelled: the same rays in the labels, where unknown voxels are free; rays that end free are left out.

        Raises:
            DataError: a ray met a class outside the table.
        """
        check_labels("label", labelled.labels, self.classes, may_be_unknown=False)
        check_labels("prediction", predicted.labels, self.classes, may_be_unknown=False)
        kept = labelled.labels != self.classes.free
        label, found = labelled.labels[kept], predicted.labels[kept]
        difference_m = np.abs(predicted.distances_m[kept] - labelled.distances_m[kept])
        number = self.classes.num_classes
        self.labelled += np.bincount(label, minlength=number)
        self.predicted += np.bincount(found, minlength=number)
        for row, threshold_m in enumerate(THRESHOLDS_M):
            right = (label == found) & (difference_m < threshold_m)
            self.hits[row] += np.bincount(label[right], minlength=number)

    def __iadd__(self, other: RayConfusion) -> RayConfusion:
        """Adds the counts of other samples."""
        self.hits += other.hits
        self.labelled += other.labelled
        self.predicted += other.predicted
        return self

    def scores(self) -> RayScores:
        """Scores of everything counted so far."""
        occupied = self.classes.is_occupied(np.arange(self.classes.num_classes, dtype=np.uint8))
        either = (self.labelled + self.predicted - self.hits)[:, occupied]
        shares = np.where(either > 0, self.hits[:, occupied] / np.maximum(either, 1), np.nan)
        return RayScores(
            ray_iou=_mean(shares),
            at={threshold: _mean(row) for threshold, row in zip(THRESHOLDS_M, shares, strict=True)},
            classes={name: _mean(column) for name, column in zip(self.classes.occupied, shares.T, strict=True)},
            rays=int(self.labelled.sum()),
        )


def _mean(shares: Float64[np.ndarray, "*any"]) -> float:
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else float("nan")
