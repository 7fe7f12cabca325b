"""RayIoU: do the rays of a LiDAR meet the right class at the right distance? Computed on the CPU, in one walk.

Rays of a made-up LiDAR start at its places at the keyframes of the scene, walk through labels and prediction, and are
compared where they stop. A surface that is predicted several voxels thick earns nothing, unlike in mIoU; no mask takes
part.

Source: SparseOcc (arXiv 2312.17118), section 3.4, and its published evaluation, whose conventions are kept: the
distance of a hit is where the ray leaves the voxel, a ray that meets nothing ends with the last voxel of the grid, and
where two faces are met at once z goes before y before x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from protoocc.labels import check_labels
from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid
from schemas.voxels.first_hit import first_hits

__all__ = ["THRESHOLDS_M", "RayConfusion", "RayScores", "lidar_places", "ray_directions"]

THRESHOLDS_M: Final = (1.0, 2.0, 4.0)
"""A prediction counts if its distance differs by less from that of the label."""
_ORIGINS: Final = 8
_REACH_M: Final = 39.0
"""Rays start where |x| and |y| are smaller than this; the grid of Occ3D ends at 40 m."""
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
def ray_directions() -> Float64[np.ndarray, "r 3"]:
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
    return rays.astype(np.float32).astype(np.float64)


def lidar_places(
    global_from_lidar: Sequence[Float64[np.ndarray, "4 4"]], global_from_ego: Float64[np.ndarray, "4 4"]
) -> Float64[np.ndarray, "o 3"]:
    """Where the rays of one keyframe start, metres in its ego frame: at most eight places of its scene's LiDAR.

    Args:
        global_from_lidar: of all evaluated keyframes of the scene, in order of time.
        global_from_ego: of the keyframe.
    """
    places = np.array([pose[:3, 3] for pose in global_from_lidar])
    rotation, translation = global_from_ego[:3, :3], global_from_ego[:3, 3]
    local = (places - translation) @ rotation
    near = local[(np.abs(local[:, :2]) < _REACH_M).all(axis=1)]
    if len(near) <= _ORIGINS:
        return near
    return near[np.round(np.linspace(0, len(near) - 1, _ORIGINS)).astype(np.int64)]


class RayConfusion:
    """Counts of rays by class, added up sample by sample."""

    def __init__(self, classes: ClassTable, grid: VoxelGrid) -> None:
        """Starts without counts.

        Args:
            classes: of the labels.
            grid: of the volumes.
        """
        self.classes, self.grid = classes, grid
        self.hits: Int64[np.ndarray, "t L"] = np.zeros((len(THRESHOLDS_M), classes.num_classes), np.int64)
        self.labelled: Int64[np.ndarray, " L"] = np.zeros(classes.num_classes, np.int64)
        self.predicted: Int64[np.ndarray, " L"] = np.zeros(classes.num_classes, np.int64)

    def add(
        self,
        prediction: UInt8[np.ndarray, "X Y Z"],
        semantics: UInt8[np.ndarray, "X Y Z"],
        places_m: Float64[np.ndarray, "o 3"],
    ) -> None:
        """Counts one sample; voxels without a known label let rays through.

        Args:
            prediction: class of each voxel, of the whole grid.
            semantics: label of each voxel.
            places_m: where the rays start, see `lidar_places`.

        Raises:
            DataError: a class outside the table.
        """
        check_labels("label", semantics, self.classes, may_be_unknown=True)
        check_labels("prediction", prediction, self.classes, may_be_unknown=False)
        truth = np.where(semantics == self.classes.ignored, self.classes.free, semantics)
        label, label_m = self._meet(truth, places_m)
        found, found_m = self._meet(prediction, places_m)
        kept = label != self.classes.free
        label, found, difference_m = label[kept], found[kept], np.abs(found_m[kept] - label_m[kept])
        number = self.classes.num_classes
        self.labelled += np.bincount(label, minlength=number)
        self.predicted += np.bincount(found, minlength=number)
        for row, threshold_m in enumerate(THRESHOLDS_M):
            right = (label == found) & (difference_m < threshold_m)
            self.hits[row] += np.bincount(label[right], minlength=number)

    def _meet(
        self, volume: UInt8[np.ndarray, "X Y Z"], places_m: Float64[np.ndarray, "o 3"]
    ) -> tuple[UInt8[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Class and distance (metres) of each ray; free for rays that meet nothing.

        The walk prefers the first axis where faces are met at once, so it is asked in the order z, y, x.
        """
        occupied = np.ascontiguousarray(self.classes.is_occupied(volume).transpose(2, 1, 0))
        origins = (places_m - np.array(self.grid.minimum_m)) / self.grid.voxel_size_m
        met = first_hits(
            occupied, np.ascontiguousarray(origins[:, ::-1]), np.ascontiguousarray(ray_directions()[:, ::-1])
        )
        z, y, x = np.moveaxis(met.voxels, -1, 0)
        labels = np.where(met.is_hit, volume[x, y, z], np.uint8(self.classes.free))
        return labels.ravel(), (met.leaves * self.grid.voxel_size_m).ravel()

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
