"""Import of Occ3D label files: checks, messages, the stage, the real file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.label_counts import describe_counts
from pipelines.occupancy import Occ3dConfig, make_occupancy
from pipelines.occupancy.occ3d import label_file, read_labels
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError, StageError
from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.images import ImageSpec
from schemas.records import read_index, read_records

SHAPE = (2, 3, 4)
DATASET = DatasetSpec(
    name="files", format="nuscenes", root=Path("nowhere"), version="v1", work=Path("nowhere"),
    image=ImageSpec(resize=(160, 90), crop=(0, 0, 160, 90)), splits={"train": SplitSpec(scenes=("s",))},
    grid=VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=SHAPE),
)  # fmt: skip
GOOD = {name: np.zeros(SHAPE, np.uint8) for name in ("semantics", "mask_lidar", "mask_camera")}


def write(folder: Path, **changes: np.ndarray) -> Path:
    path = folder / "labels.npz"
    np.savez_compressed(path, **{**GOOD, **changes})
    return path


def test_reads_what_was_written(tmp_path: Path) -> None:
    semantics = np.full(SHAPE, 17, np.uint8)
    semantics[1, 2, 3] = 16
    labels = read_labels(write(tmp_path, semantics=semantics), "token", DATASET)
    assert list(labels) == ["semantics", "mask_lidar", "mask_camera"]
    assert np.array_equal(labels["semantics"], semantics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantics": np.full(SHAPE, 18, np.uint8)}, r"'semantics' holds 18, expected 0\.\.17"),
        ({"mask_camera": np.full(SHAPE, 2, np.uint8)}, r"'mask_camera' holds 2, expected 0\.\.1"),
        ({"mask_lidar": np.zeros(SHAPE, np.float32)}, "'mask_lidar' is float32"),
        ({"semantics": np.full(SHAPE, 256, np.int64)}, r"'semantics' holds 256, expected 0\.\.17"),
        ({"semantics": np.full(SHAPE, -1, np.int8)}, r"'semantics' holds -1, expected 0\.\.17"),
        ({"semantics": np.zeros((2, 3, 5), np.uint8)}, r"uint8 \(2, 3, 5\), expected uint8 \(2, 3, 4\)"),
        ({"semantics": np.array([{}], dtype=object)}, r"is damaged: .*\(objects"),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_labels(write(tmp_path, **changes), "the-token", DATASET)
    assert "the-token" in str(caught.value)
    assert "labels.npz" in str(caught.value)


def test_missing_array_missing_file_and_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    with pytest.raises(DataError, match="not found"):
        read_labels(path, "token", DATASET)
    np.savez_compressed(path, semantics=GOOD["semantics"])
    with pytest.raises(DataError, match="array 'mask_lidar' is missing"):
        read_labels(path, "token", DATASET)
    whole = write(tmp_path).read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match="is damaged"):
            read_labels(path, "token", DATASET)


def test_real_file(real_occ3d: Path) -> None:
    path = next(real_occ3d.glob("gts/*/*/labels.npz"))
    labels = read_labels(path, path.parent.name, DATASET.model_copy(update={"grid": OCC3D_GRID}))
    # the counts that the project's format notes hold for this file
    assert int((labels["semantics"] == 17).sum()) == 600_908
    assert int(labels["mask_lidar"].sum()) == 56_601
    assert int(labels["mask_camera"].sum()) == 43_355


def test_stage_stores_the_files_as_they_are(stored: Path, world_dataset: DatasetSpec) -> None:
    arrays = open_store(stored / "occupancy.zarr", "occupancy")
    records = read_records(stored / "records", read_index(stored / "records"))
    assert arrays["semantics"].shape == (len(records), 200, 200, 16)
    for index, record in enumerate(records):
        path = world_dataset.root / "gts" / record.scene / record.token / "labels.npz"
        with np.load(path, allow_pickle=False) as file:
            for name in file:
                assert np.array_equal(arrays[name][index], file[name])


@pytest.fixture
def holed(world_dataset: DatasetSpec, prepared: Path, tmp_path: Path) -> tuple[DatasetSpec, Path]:
    """A dataset whose label files can be changed, without any LiDAR files, and a work folder with its records."""
    shutil.copytree(world_dataset.root / "gts", tmp_path / "root" / "gts")
    work = tmp_path / "work"
    work.mkdir()
    (work / "records").symlink_to(prepared / "records")
    return world_dataset.model_copy(update={"root": tmp_path / "root"}), work


def test_a_missing_file_costs_its_keyframe_and_is_counted(
    holed: tuple[DatasetSpec, Path], sync_runtime: Runtime
) -> None:
    dataset, work = holed
    records = read_records(work / "records", read_index(work / "records"))
    label_file(dataset.root / "gts", records[0]).unlink()
    summary = make_occupancy(dataset, work, Occ3dConfig(), sync_runtime)
    assert summary.done == len(records) - 1
    assert list(summary.dropped) == [records[0].token] and "labels.npz not found" in summary.dropped[records[0].token]
    assert summary.counts["keyframes_without_labels"] == 1 and summary.counts["keyframes_untested"] == 0
    assert (np.asarray(open_store(work / "occupancy.zarr", "occupancy")["semantics"][0]) == 255).all()
    assert any("1 keyframes have no label file" in line for line in describe_counts(summary.counts))


def test_no_file_at_all_is_an_error(holed: tuple[DatasetSpec, Path], sync_runtime: Runtime) -> None:
    dataset, work = holed
    shutil.rmtree(dataset.root / "gts")
    with pytest.raises(StageError, match=r"every sample was dropped; .*labels.npz not found. Check `labels`"):
        make_occupancy(dataset, work, Occ3dConfig(), sync_runtime)


def test_a_broken_file_is_an_error_or_dropped(holed: tuple[DatasetSpec, Path], sync_runtime: Runtime) -> None:
    dataset, work = holed
    record = read_records(work / "records", read_index(work / "records"))[0]
    path = label_file(dataset.root / "gts", record)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StageError, match=rf"{record.token}.*is damaged"):
        make_occupancy(dataset, work, Occ3dConfig(), sync_runtime)
    summary = make_occupancy(dataset, work, Occ3dConfig(), replace(sync_runtime, on_error="drop"))
    assert list(summary.dropped) == [record.token] and "keyframes_without_labels" not in summary.counts


def test_keyframes_that_teach_nothing_are_counted(holed: tuple[DatasetSpec, Path], sync_runtime: Runtime) -> None:
    """Unknown throughout, or seen by no camera; `pack` counts them again."""
    dataset, work = holed
    first, second = read_records(work / "records", read_index(work / "records"))[:2]
    for record, change in ((first, {"semantics": 255}), (second, {"mask_camera": 0})):
        path = label_file(dataset.root / "gts", record)
        with np.load(path) as file:
            arrays = {name: np.full_like(file[name], change.get(name, 0)) for name in file if name in change}
            np.savez_compressed(path, **{**dict(file), **arrays})
    counts = make_occupancy(dataset, work, Occ3dConfig(), sync_runtime).counts
    assert (counts["keyframes_unknown"], counts["keyframes_unseen"]) == (1, 1)
    lines = describe_counts(counts)
    assert len(lines) == 2 and all("teach nothing" in line for line in lines)
