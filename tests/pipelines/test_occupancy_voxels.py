"""SemanticKITTI's voxel files: import of both releases, export in the official packing, the real frames end to end."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import VoxelsConfig, make_occupancy
from pipelines.occupancy.compare_voxels import compare_with_voxels
from pipelines.occupancy.export_voxels import write_voxel_files
from pipelines.occupancy.voxel_files import release_of, scan_voxels
from pipelines.pack import PackConfig, pack
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, StageError
from schemas.geometry import SEMANTICKITTI_GRID
from schemas.records import read_index, read_records
from schemas.semantickitti import read_bits
from tests.pipelines.kitti_files import kitti_entry, write_scan, write_sequence, write_voxels

SHAPE = SEMANTICKITTI_GRID.shape


def small_labels() -> tuple[np.ndarray, np.ndarray]:
    """Raw ids: road at every return, a moving car (252), outlier (1), other structure (52); and one invalid voxel."""
    raw = np.zeros(SHAPE, dtype=np.uint16)
    raw[25:200, 128, 10] = 40
    raw[30, 140, 12], raw[31, 140, 12], raw[32, 140, 12] = 252, 1, 52
    invalid = np.zeros(SHAPE, dtype=bool)
    invalid[40, 0, 31] = True
    return raw, invalid


@pytest.fixture
def dataset(tmp_path: Path, sync_runtime: Runtime) -> DatasetSpec:
    """One prepared keyframe with voxels of release v1.1."""
    folder = write_sequence(tmp_path, "00", 1)
    write_scan(folder, 0)
    write_voxels(folder, 0, *small_labels())
    entry = kitti_entry(tmp_path)
    prepare(entry, entry.work, sync_runtime)
    return entry


def voxels_of(dataset: DatasetSpec) -> Path:
    return dataset.root / "dataset/sequences/00/voxels"


def test_classes_and_masks_of_the_files(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    summary = make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    semantics, mask_camera, mask_lidar = (store[name][0] for name in ("semantics", "mask_camera", "mask_lidar"))
    assert semantics[30:33, 140, 12].tolist() == [1, 255, 255], "car, and twice matter of no scored class"
    assert (semantics[25, 128, 10], semantics[0, 0, 0], int((semantics != 0).sum())) == (9, 0, 178)
    assert (mask_camera[40, 0, 31], int((mask_camera == 0).sum())) == (0, 1)
    assert (mask_lidar[0, 0, 0], int(mask_lidar.sum())) == (1, 1)
    assert summary.counts["keyframes_of_v1_1"] == 1


def test_the_older_release_is_known_and_put_right(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    write_voxels(dataset.root / "dataset/sequences/00", 0, *small_labels(), moved=1)
    summary = make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    assert (store["semantics"][0][30, 140, 12], store["mask_camera"][0][40, 0, 31]) == (1, 0)
    assert summary.counts["keyframes_of_v1_0"] == 1
    kept = VoxelsConfig(repair=False)
    make_occupancy(dataset, dataset.work, kept, replace(sync_runtime, overwrite=True))
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    assert (store["semantics"][0][30, 140, 13], store["mask_camera"][0][41, 0, 0]) == (1, 1)
    assert store["mask_camera"][0][40, 1, 0] == 0, "flat order: behind the last voxel of a column comes the next column"


@pytest.mark.parametrize("repair", [True, False])
def test_export_writes_the_files_byte_for_byte(
    dataset: DatasetSpec, tmp_path: Path, sync_runtime: Runtime, repair: bool
) -> None:
    raw, invalid = small_labels()
    raw[raw == 252], raw[raw == 52] = 10, 1  # ids that other ids share a class with are not kept
    write_voxels(dataset.root / "dataset/sequences/00", 0, raw, invalid)
    make_occupancy(dataset, dataset.work, VoxelsConfig(repair=repair), sync_runtime)
    write_voxel_files(dataset, dataset.work, tmp_path / "out", sync_runtime)
    for suffix in ("label", "invalid", "occluded", "bin"):
        written = tmp_path / "out/sequences/00/voxels" / f"000000.{suffix}"
        assert written.read_bytes() == (voxels_of(dataset) / written.name).read_bytes(), suffix


def test_a_store_agrees_with_the_files_that_it_holds(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    """The invalid voxel is the only one; of the occupied ones one has another class after the change below.

    The last of the 100 points, in x voxel 200, has no label.
    """
    make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
    raw, invalid = small_labels()
    raw[25, 128, 10], raw[50, 50, 20], invalid[41, 0, 31] = 48, 40, True
    other = dataset.root / "other" / "00"
    other.mkdir(parents=True)
    (other / "velodyne").symlink_to(dataset.root / "dataset/sequences/00/velodyne")
    write_voxels(other, 0, raw, invalid, moved=1)
    comparison = compare_with_voxels(dataset, dataset.work, other.parent, scheduler=sync_runtime.scheduler)
    for place in ("written/sequences", "raw/dataset/sequences"):
        (dataset.root / place).parent.mkdir(parents=True)
        (dataset.root / place).symlink_to(other.parent)
        root = dataset.root / place.partition("/")[0]
        assert compare_with_voxels(dataset, dataset.work, root, scheduler=sync_runtime.scheduler) == comparison
    assert comparison.keyframes == 1
    assert comparison.figures == pytest.approx(
        {
            **{"scan_recall": 0.99, "invalid_iou": 0.5, "invalid_precision": 1.0},
            **{"occluded_iou": 1.0, "occluded_precision": 1.0},
            **{"occupied_iou": 176 / 177, "semantic_accuracy": 175 / 176},
        }
    )


def test_broken_files_are_named(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    raw, invalid = small_labels()
    raw[3, 3, 3] = 19
    write_voxels(dataset.root / "dataset/sequences/00", 0, raw, invalid)
    with pytest.raises(StageError, match=r"000000.label .*: holds 19, which is no raw id"):
        make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
    write_voxels(dataset.root / "dataset/sequences/00", 0, *small_labels())
    (voxels_of(dataset) / "000000.invalid").write_bytes(bytes(100))
    with pytest.raises(StageError, match=r"000000.invalid .*: has 100 bytes, expected 262144"):
        make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
    write_voxels(dataset.root / "dataset/sequences/00", 0, *small_labels())
    (voxels_of(dataset) / "000000.bin").unlink()
    with pytest.raises(StageError, match=r"neither of the releases v1.0 and v1.1 fits.*--set repair=false"):
        make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)


def test_other_formats_are_refused(world_dataset: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="--source voxels reads SemanticKITTI's files; 'tiny' has format nuscenes"):
        make_occupancy(world_dataset, prepared, VoxelsConfig(), sync_runtime)
    with pytest.raises(ConfigError, match="Use --write-npz"):
        write_voxel_files(world_dataset, prepared, prepared / "voxels", sync_runtime)


@pytest.fixture(scope="session")
def kitti_copy(real_kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetSpec:
    """Entry for the three real frames, with the labels that stand in for the official ones, prepared without 1,721."""
    root = tmp_path_factory.mktemp("kitti")
    for path in real_kitti.glob("dataset/sequences/*/**/*"):
        if path.is_file():
            copy = root / path.relative_to(real_kitti)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    for path in real_kitti.glob("derived/*/*.label.gz"):
        voxels = root / "dataset/sequences" / path.parent.name / "voxels"
        (voxels / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    splits = {"train": SplitSpec(scenes=("00",)), "val": SplitSpec(official="val")}
    return kitti_entry(root, splits=splits)


def test_the_real_files_are_of_release_v1_0(kitti_copy: DatasetSpec, sync_runtime: Runtime) -> None:
    prepare(kitti_copy, kitti_copy.work, replace(sync_runtime, on_error="drop"))
    records = kitti_copy.work / "records"
    for record in read_records(records, read_index(records)):
        path = kitti_copy.root / f"dataset/sequences/{record.scene}/voxels/{record.token[3:]}.bin"
        given, scan = read_bits(path.read_bytes(), SHAPE), scan_voxels(kitti_copy, record)
        assert release_of(given, scan) == "v1_0"
        assert release_of(np.roll(given.ravel(), -1).reshape(SHAPE), scan) == "v1_1"
        moved = np.roll(scan.ravel(), 1).reshape(SHAPE)
        assert not (given & ~moved).any()
        assert (moved & ~given).sum() <= 3, "of about 12,000"


@pytest.mark.slow
def test_the_real_frames_become_shards(kitti_copy: DatasetSpec, tmp_path: Path, sync_runtime: Runtime) -> None:
    """Two of three: the labels of 00-000005 are not there."""
    work = kitti_copy.work
    prepare(kitti_copy, work, replace(sync_runtime, on_error="drop"))
    summary = make_occupancy(kitti_copy, work, VoxelsConfig(repair=False), sync_runtime)
    assert (summary.done, summary.counts["keyframes_of_v1_0"]) == (2, 2)
    write_voxel_files(kitti_copy, work, tmp_path / "out", sync_runtime)
    for name in ("00/voxels/000000.invalid", "00/voxels/000000.occluded", "08/voxels/000000.occluded"):
        real = kitti_copy.root / "dataset/sequences" / name
        assert (tmp_path / "out/sequences" / name).read_bytes() == real.read_bytes()
    make_masks(kitti_copy, work, SeedsConfig(), sync_runtime)
    packed = pack(kitti_copy, work, PackConfig(), sync_runtime)
    assert packed.done == 2
