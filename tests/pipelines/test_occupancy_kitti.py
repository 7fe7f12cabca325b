"""`--source lidar` on SemanticKITTI's layout: things that move, noise, and what the masks mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy import LIDAR_PRESETS, make_occupancy
from pipelines.points import NOT_MATTER, UNKNOWN, class_of_index, read_moving, read_point_labels
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D, SEMANTICKITTI
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid
from schemas.records import read_index, read_records
from tests.pipelines.kitti_files import REAL_CALIB, kitti_entry, write_scan, write_sequence

SMALL = VoxelGrid(minimum_m=(8.0, -7.6, -2.0), voxel_size_m=0.2, shape=(72, 72, 24))
CAR_M = (20.1, 4.1, -0.9)
POLE_M = (15.1, -6.1, -0.5)
ROAD, CAR, POLE = (SEMANTICKITTI.index(name) for name in ("road", "car", "pole"))


def write_points(folder: Path, scan: int, extra: list[tuple[tuple[float, float, float], int]]) -> None:
    """Ground of 100 x 60 points at z = -1.7, and further points with their raw ids."""
    x, y = np.meshgrid(np.linspace(4, 30, 100), np.linspace(-8, 8, 60), indexing="ij")
    ground = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, -1.7), np.zeros(x.size)])
    more = np.array([[*place, 0.0] for place, _ in extra])
    np.concatenate([ground, more]).astype("<f4").tofile(folder / "velodyne" / f"{scan:06}.bin")
    raw = np.array([40] * len(ground) + [label for _, label in extra], dtype="<u4")
    (raw + (7 << 16)).astype("<u4").tofile(folder / "labels" / f"{scan:06}.label")


@pytest.fixture
def dataset(tmp_path: Path, sync_runtime: Runtime) -> DatasetSpec:
    """Two keyframes of a vehicle that stands; a car drives only in the first one, a pole and noise are in both."""
    folder = write_sequence(tmp_path, "00", 6)
    (folder / "calib.txt").write_text(REAL_CALIB)
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 6)
    noise = [((10.1, 0.1, 1.1), 0), ((10.1, 0.1, 1.5), 1)]
    other = [((12.1, 3.1, -0.3), 99)]
    for scan, car in ((0, [(CAR_M, 252)]), (5, [])):
        write_scan(folder, scan)
        write_points(folder, scan, [(POLE_M, 80), *noise, *other, *car])
    entry = kitti_entry(tmp_path, grid=SMALL)
    prepare(entry, entry.work, sync_runtime)
    return entry


def voxel(dataset: DatasetSpec, place_m: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(dataset.grid.voxel_index(np.array([place_m]))[0].tolist())


def test_what_moves_is_only_in_its_own_scan(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    summary = make_occupancy(dataset, dataset.work, LIDAR_PRESETS["semantickitti"], sync_runtime)
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    first, second = store["semantics"][0], store["semantics"][1]
    assert (first[voxel(dataset, CAR_M)], second[voxel(dataset, CAR_M)]) == (CAR, SEMANTICKITTI.free)
    assert first[voxel(dataset, POLE_M)] == second[voxel(dataset, POLE_M)] == POLE
    assert first[voxel(dataset, (12.1, 3.1, -0.3))] == SEMANTICKITTI.ignored, "other object: matter of no scored class"
    assert first[voxel(dataset, (10.1, 0.1, 1.1))] == first[voxel(dataset, (10.1, 0.1, 1.5))] == SEMANTICKITTI.free
    assert first[voxel(dataset, (10.0, 0.0, -1.7))] == ROAD
    assert summary.counts["voxels_semantickitti"] > 1000


def test_masks_mean_what_the_official_files_mean(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    """The voxel over the ground is visible; the one in the ground is a surface: scored, and occluded as all surfaces.

    Below the ground nothing is seen from anywhere.
    """
    make_occupancy(dataset, dataset.work, LIDAR_PRESETS["semantickitti"], sync_runtime)
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    mask_lidar, mask_camera = store["mask_lidar"][0], store["mask_camera"][0]
    places = [(10.0, 0.0, -1.5), (10.0, 0.0, -1.7), (10.0, 0.0, -1.9)]
    assert [int(mask_lidar[voxel(dataset, place)]) for place in places] == [1, 0, 0]
    assert [int(mask_camera[voxel(dataset, place)]) for place in places] == [1, 1, 0]
    assert not (mask_lidar & ~mask_camera & 1).any()


def test_point_labels_follow_the_learning_map(dataset: DatasetSpec) -> None:
    records = dataset.work / "records"
    record = read_records(records, read_index(records))[0]
    lidar, count = record.keyframe_sweep, 6005
    labels = read_point_labels(dataset, lidar, record.token, class_of_index(dataset), count)
    assert labels[-5:].tolist() == [POLE, NOT_MATTER, NOT_MATTER, UNKNOWN, CAR]
    assert read_moving(dataset, lidar, record.token, count)[-5:].tolist() == [False, False, False, False, True]
    with pytest.raises(ConfigError, match="'bicyclist' is none of|'other-vehicle' is none of"):
        class_of_index(dataset.model_copy(update={"classes": OCC3D}))
