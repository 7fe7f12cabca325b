"""Counts by mask, distance and height: hand-made volumes, and plain sums over the voxels of a zone."""

from __future__ import annotations

import numpy as np
import pytest

from protoocc.metrics import Confusion
from protoocc.tally import MASKS, Tally, Truth
from protoocc.zones import Zones
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.geometry import OCC3D_GRID, VoxelGrid

GRID = VoxelGrid(minimum_m=(-25.0, -5.0, -1.0), voxel_size_m=2.0, shape=(25, 5, 3))
"""Middles: x -24 .. 24, y -4 .. 4, z 0, 2, 4 m."""


def test_zones_of_occ3d() -> None:
    zones = Zones.of(OCC3D_GRID)
    assert zones.rings == ("0-10 m", "10-20 m", "20-30 m", "30-40 m", "above 40 m")
    assert zones.bands == ("below 0.2 m", "0.2-1 m", "1-2 m", "2-4 m", "above 4 m")
    # Heights of the middles are -0.8, -0.4, 0 | 0.4, 0.8 | 1.2, 1.6 | 2.0, 2.4, 2.8, 3.2, 3.6 | 4.0, 4.4, 4.8, 5.2.
    assert (zones.index[100, 100] % 5).tolist() == [0] * 3 + [1] * 2 + [2] * 2 + [3] * 5 + [4] * 4
    # x of the middles is 0.2 + 0.4 (i - 100), y is 0.2: 9.8 m and 10.2 m lie in voxels 124 and 125.
    assert (zones.index[[100, 124, 125, 199, 0], 100, 0] // 5).tolist() == [0, 0, 1, 3, 3]
    assert zones.index[0, 0, 0] // 5 == 4


def test_zones_without_voxels_do_not_exist() -> None:
    zones = Zones.of(GRID)
    assert zones.rings == ("0-10 m", "10-20 m", "20-30 m")
    assert zones.bands == ("below 0.2 m", "2-4 m", "above 4 m")
    # y 0: x -20 and 20 are not below 20 m.
    assert (zones.index[:, 2, 0] // 3).tolist() == [2] * 3 + [1] * 5 + [0] * 9 + [1] * 5 + [2] * 3


@pytest.fixture
def volumes() -> tuple[np.ndarray, Truth]:
    random = np.random.default_rng(0)
    label = random.choice([0, 4, 11, 17, 255], GRID.shape).astype(np.uint8)
    prediction = random.choice([4, 11, 17], GRID.shape).astype(np.uint8)
    return prediction, Truth(label, random.random(GRID.shape) < 0.4, random.random(GRID.shape) < 0.6)


def test_every_mask_and_zone_counts_its_voxels(volumes: tuple[np.ndarray, Truth]) -> None:
    prediction, truth = volumes
    zones = Zones.of(GRID)
    tally = Tally(OCC3D, zones)
    tally.add(prediction, truth)
    masks = {"camera": truth.mask_camera, "lidar": truth.mask_lidar, "none": np.ones(GRID.shape, bool)}
    assert tuple(masks) == MASKS
    ring, band = zones.index // len(zones.bands), zones.index % len(zones.bands)
    for mask in MASKS:
        parts = [({}, np.ones(GRID.shape, bool))]
        parts += [({"ring": number}, ring == number) for number in range(len(zones.rings))]
        parts += [({"band": number}, band == number) for number in range(len(zones.bands))]
        for part, inside in parts:
            expected = Confusion(OCC3D)
            expected.add(prediction, truth.semantics, masks[mask] & inside)
            assert np.array_equal(tally.confusion(mask, **part).counts, expected.counts)
    assert tally.confusion("camera").counts.sum() > 0


def test_samples_are_added_up(volumes: tuple[np.ndarray, Truth]) -> None:
    prediction, truth = volumes
    zones = Zones.of(GRID)
    once, twice, sums = (Tally(OCC3D, zones) for _ in range(3))
    once.add(prediction, truth)
    once.unknown = 3
    twice.add(prediction, truth)
    twice.add(prediction, truth)
    sums += once
    sums += once
    assert np.array_equal(sums.counts, twice.counts)
    assert sums.unknown == 6


def test_classes_outside_the_table_are_refused(volumes: tuple[np.ndarray, Truth]) -> None:
    prediction, truth = volumes
    tally = Tally(OCC3D, Zones.of(GRID))
    with pytest.raises(DataError, match="prediction holds class 255"):
        tally.add(np.full_like(prediction, 255), truth)
    with pytest.raises(DataError, match="label holds class 99"):
        tally.add(prediction, Truth(np.full_like(prediction, 99), truth.mask_camera, truth.mask_lidar))
