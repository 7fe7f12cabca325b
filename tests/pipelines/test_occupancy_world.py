"""Labels from LiDAR: a generated world with exact truth, and one real keyframe."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy import LIDAR_PRESETS, LidarConfig, make_occupancy
from pipelines.occupancy.compare import compare_occupancy
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import StageError
from schemas.geometry import transform_points
from schemas.images import ImageSpec
from schemas.records import read_index, read_records

ROAD, FREE = 11, 17


def digest(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(bytes(p.relative_to(folder)) + p.read_bytes() for p in paths)).hexdigest()


TINY = LidarConfig()


@pytest.fixture(scope="module")
def one_scene(world_dataset: DatasetSpec) -> DatasetSpec:
    """The first scene of the tiny world."""
    return world_dataset.model_copy(update={"splits": {"train": SplitSpec(scenes=("synth-0000",))}})


@pytest.fixture(scope="module")
def made(one_scene: DatasetSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder with labels that the LiDAR of one generated scene gives."""
    work = tmp_path_factory.mktemp("made")
    prepare(one_scene, work, Runtime(scheduler=Scheduler(kind="sync")))
    summary = make_occupancy(one_scene, work, TINY, Runtime(scheduler=Scheduler(kind="sync")))
    assert summary.done == 2
    counts = summary.counts
    assert counts["voxels_occupied"] == sum(counts[f"voxels_{name}"] for name in ("lidarseg", "boxes", "ignored"))
    return work


def test_world_agrees_with_its_exact_truth(one_scene: DatasetSpec, made: Path) -> None:
    arrays = open_store(made / "occupancy.zarr", "occupancy")
    for index, record in enumerate(read_records(made / "records", read_index(made / "records"))):
        path = one_scene.root / "gts" / record.scene / record.token / "labels.npz"
        with np.load(path, allow_pickle=False) as truth:
            labels = {name: np.asarray(arrays[name][index]) for name in truth}
            figures = compare_occupancy(labels, dict(truth), OCC3D)
        # measured: 0.82 to 0.83, 0.96 to 0.97, 0.99, 0.96; so few sweeps show little
        assert figures["occupied_iou"] > 0.78
        assert figures["semantic_accuracy"] > 0.92
        assert figures["mask_lidar_f1"] > 0.97
        assert figures["mask_camera_f1"] > 0.94


@pytest.mark.slow
def test_world_gives_the_same_bytes_on_two_threads(one_scene: DatasetSpec, made: Path, tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(made / "records")
    make_occupancy(one_scene, tmp_path, TINY, Runtime(scheduler=Scheduler(kind="threads", workers=2)))
    assert digest(tmp_path / "occupancy.zarr") == digest(made / "occupancy.zarr")
    again = make_occupancy(one_scene, tmp_path, TINY, Runtime(scheduler=Scheduler(kind="sync")))
    assert again.skipped


def test_keyframes_without_a_split_stay_unlabelled(world_dataset: DatasetSpec, made: Path, tmp_path: Path) -> None:
    splits = {"train": SplitSpec(scenes=("synth-0000",), limit=1)}
    dataset = world_dataset.model_copy(update={"splits": splits})
    prepare(dataset, tmp_path, Runtime(scheduler=Scheduler(kind="sync")))
    summary = make_occupancy(dataset, tmp_path, TINY, Runtime(scheduler=Scheduler(kind="sync")))
    assert summary.done == 1
    rows = open_store(tmp_path / "occupancy.zarr", "occupancy")["semantics"]
    assert (np.asarray(rows[1]) == 255).all()
    with_both = open_store(made / "occupancy.zarr", "occupancy")["semantics"]
    assert np.array_equal(rows[0], with_both[0])  # the sweeps of the unlabelled keyframe still serve this one


@pytest.mark.slow
def test_real_keyframe_without_point_labels(real_nuscenes: Path, tmp_path: Path) -> None:
    dataset = DatasetSpec(
        name="real", format="nuscenes", root=real_nuscenes, version="v1.0-mini", work=tmp_path,
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={"train": SplitSpec(scenes=("scene-0061",))},
    )  # fmt: skip
    prepare(dataset, tmp_path, Runtime(scheduler=Scheduler(kind="sync")))
    summary = make_occupancy(dataset, tmp_path, LIDAR_PRESETS["default"], Runtime(scheduler=Scheduler(kind="sync")))
    counts = summary.counts
    assert counts["voxels_occupied"] == sum(counts[f"voxels_{name}"] for name in ("map", "boxes", "ignored"))
    assert min(counts[f"voxels_{name}"] for name in ("map", "boxes", "ignored")) > 0
    store = open_store(tmp_path / "occupancy.zarr", "occupancy")
    labels = {name: np.asarray(array[0]) for name, array in store.items()}
    assert (labels["mask_camera"] <= labels["mask_lidar"]).all()
    (record,) = read_records(tmp_path / "records", read_index(tmp_path / "records"))
    # unknown is 255, never "others": classes come from boxes or are road
    assert set(np.unique(labels["semantics"])) <= {ROAD, FREE, 255} | {box.label for box in record.boxes}
    points = np.fromfile(real_nuscenes / record.lidar.path, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
    points_ego = transform_points(record.lidar.ego_from_lidar.matrix, points)
    index = dataset.grid.voxel_index(points_ego)
    index = index[dataset.grid.contains(index) & (np.hypot(points_ego[:, 0], points_ego[:, 1]) > 5)]
    hit = labels["semantics"][tuple(index.T)] != FREE
    assert hit.mean() > 0.98  # share of LiDAR returns whose voxel is occupied


def test_store_folder_of_broken_scene_is_not_finished(one_scene: DatasetSpec, made: Path, tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(made / "records")
    nowhere = one_scene.model_copy(update={"root": tmp_path / "nowhere"})
    with pytest.raises(StageError, match="category.json not found"):
        make_occupancy(nowhere, tmp_path, TINY, Runtime(scheduler=Scheduler(kind="sync")))
    assert not (tmp_path / "occupancy.zarr" / "manifest.json").exists()
