"""The ground of a scene as a height map, and the map's mask, for data without point labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from pipelines.occupancy.tuning import GroundFitConfig
from schemas.errors import DataError, raise_machine_fault
from schemas.geometry import Pose
from schemas.records import PREPARE_AGAIN, MapWindow

_REACH_M: Final = 60.0
"""Ground is fitted so far around the drive: a little beyond the corners of `OCC3D_GRID`, which are 56.6 m away."""
_ANY_WEIGHT: Final = 1e-3
"""Smaller Gaussian weights are none: cells more than four from an accepted one, by default."""
_BORDER_M: Final = 10.0
"""Distances to the border of the driveable area are not told apart beyond."""


@dataclass(frozen=True)
class Ground:
    """Height over the plane, in metres from the scene's anchor; NaN where nobody knows."""

    corner_m: Float64[np.ndarray, " 2"]
    height_m: Float64[np.ndarray, "w h"]
    cell_m: float
    band_m: float

    def holds(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each point lies within the band around the ground."""
        column, inside = _cells(points, self.corner_m, self.height_m.shape, self.cell_m)
        height = np.full(len(points), np.nan)
        height[inside] = self.height_m[column[inside, 0], column[inside, 1]]
        return np.abs(points[:, 2] - height) <= self.band_m


def fit_ground(
    points: Float32[np.ndarray, "n 3"], anchor_from_ego: Sequence[Pose], band_m: float, config: GroundFitConfig
) -> Ground:
    """Fits the ground under a drive.

    The lowest points of each cell are taken where they agree with the plane that the vehicle stood on (plus a slope
    that grows with the distance), and smoothed; cells that stick out of the smooth surface are left out and the rest is
    smoothed again.

    Args:
        points: static points, metres from the anchor.
        anchor_from_ego: vehicle poses of the scene's keyframes; the vehicle frame's origin is on the ground.
        band_m: see `Ground.holds`.
        config: cells, limits and smoothing.
    """
    places = np.array([pose[:3, 3] for pose in anchor_from_ego])
    corner = places[:, :2].min(axis=0) - _REACH_M
    width, height = np.ceil((places[:, :2].max(axis=0) + _REACH_M - corner) / config.cell_m).astype(int).tolist()
    column, inside = _cells(points, corner, (width, height), config.cell_m)
    lows = np.full((width, height), np.inf)
    np.minimum.at(lows, (column[inside, 0], column[inside, 1]), points[inside, 2].astype(np.float64))
    plane, distance = _own_plane(corner, (width, height), config.cell_m, anchor_from_ego)
    accepted = np.abs(lows - plane) <= np.minimum(band_m + config.slope * distance, config.most_m)
    surface = _smooth(lows, accepted, config.smooth_cells)
    accepted &= lows - surface <= config.bump_m
    return Ground(corner, _smooth(lows, accepted, config.smooth_cells), config.cell_m, band_m)


def _cells(
    points: Float[np.ndarray, "n 3"], corner_m: Float64[np.ndarray, " 2"], shape: tuple[int, ...], cell_m: float
) -> tuple[np.ndarray, Bool[np.ndarray, " n"]]:
    column = np.floor((points[:, :2] - corner_m) / cell_m).astype(np.int64)
    return column, np.all((column >= 0) & (column < np.array(shape)), axis=1)


def _own_plane(
    corner_m: Float64[np.ndarray, " 2"], shape: tuple[int, int], cell_m: float, anchor_from_ego: Sequence[Pose]
) -> tuple[Float64[np.ndarray, "w h"], Float64[np.ndarray, "w h"]]:
    """Height of the nearest vehicle's ground plane and distance to that vehicle, per cell."""
    grid = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1)
    middle = (corner_m + (grid + 0.5) * cell_m).reshape(-1, 2)
    places = np.array([pose[:3, 3] for pose in anchor_from_ego])
    distance, nearest = cKDTree(places[:, :2]).query(middle)
    normals = np.array([pose[:3, 2] for pose in anchor_from_ego])[nearest]
    offset = middle - places[nearest, :2]
    plane = places[nearest, 2] - (normals[:, :2] * offset).sum(axis=1) / normals[:, 2]
    return plane.reshape(shape), distance.reshape(shape)


def _smooth(
    lows: Float64[np.ndarray, "w h"], accepted: Bool[np.ndarray, "w h"], sigma: float
) -> Float64[np.ndarray, "w h"]:
    """Gaussian mean of the accepted cells; NaN where none is near."""
    weight = gaussian_filter(accepted.astype(np.float64), sigma)
    total = gaussian_filter(np.where(accepted, lows, 0.0), sigma)
    return np.where(weight > _ANY_WEIGHT, total / np.maximum(weight, _ANY_WEIGHT), np.nan)


@dataclass(frozen=True)
class MapMask:
    """A cut-out of the map's mask, in metres from the scene's anchor: row 0 lies in the south, column 0 in the west."""

    corner_m: Float64[np.ndarray, " 2"]
    inside: Bool[np.ndarray, "h w"]
    pixel_m: float
    """Edge of a pixel."""

    def holds(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each point lies over the mask."""
        pixel = np.floor((points[:, :2] - self.corner_m) / self.pixel_m).astype(np.int64)
        known = np.all((pixel >= 0) & (pixel < np.array(self.inside.shape[::-1])), axis=1)
        result = np.zeros(len(points), dtype=bool)
        result[known] = self.inside[pixel[known, 1], pixel[known, 0]]
        return result

    @cached_property
    def _border_m(self) -> Float32[np.ndarray, "h w"]:
        sides = (self.inside.astype(np.uint8), (~self.inside).astype(np.uint8))
        within, beyond = (cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_5) for side in sides)
        return np.clip((within - beyond) * np.float32(self.pixel_m), -_BORDER_M, _BORDER_M)

    def border_distance(self, points: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, " n"]:
        """Distance of each point to the border of the driveable area: metres, positive within it, -10 .. 10."""
        pixel = np.floor((points[:, :2] - self.corner_m) / self.pixel_m).astype(np.int64)
        column, row = np.clip(pixel, 0, np.array(self.inside.shape[::-1]) - 1).T
        return np.asarray(self._border_m[row, column])


def read_map_mask(folder: Path, window: MapWindow, anchor_m: Float64[np.ndarray, " 3"]) -> MapMask:
    """Reads the map around a scene, as `prepare` cut it out.

    Args:
        folder: the records folder.
        window: file and place of the image.
        anchor_m: what the result's positions are relative to, global frame.

    Raises:
        DataError: the file is missing or no image.
    """
    path = folder / window.path
    try:
        with Image.open(path) as image:
            inside = np.asarray(image.convert("1"), dtype=bool)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise_machine_fault(error)
        raise DataError(f"{path}: map window is missing or no whole image ({error}). {PREPARE_AGAIN}") from error
    return MapMask(np.array(window.corner_m) - anchor_m[:2], inside[::-1], window.pixel_m)
