"""Occ3D files from a store: what peers read, what this program gets back, restart."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy import Occ3dConfig, make_occupancy
from pipelines.occupancy.export import encode_labels, write_label_files
from pipelines.occupancy.occ3d import read_labels
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import VoxelGrid
from tests.folders import files_below

SHAPE = (2, 2, 3)
GRID = VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=SHAPE)


def labels_with_unknown() -> dict[str, np.ndarray]:
    """Voxels (0, 0, 0..2) are unknown: unobserved, seen by the LiDAR, seen by both; (1, 1, 1) is a car."""
    labels = {"semantics": np.full(SHAPE, 17, np.uint8), **{m: np.zeros(SHAPE, np.uint8) for m in MASKS}}
    labels["semantics"][0, 0] = 255
    labels["semantics"][1, 1, 1] = 4
    labels["mask_lidar"][0, 0] = 0, 1, 1
    labels["mask_camera"][0, 0] = 0, 0, 1
    labels["mask_lidar"][1, 1] = labels["mask_camera"][1, 1] = 1
    return labels


MASKS = ("mask_lidar", "mask_camera")


def load(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_unknown_voxels_are_never_scored_by_others() -> None:
    files = load(encode_labels(labels_with_unknown(), OCC3D))
    assert list(files) == ["semantics", "mask_lidar", "mask_camera", "unknown"]
    assert files["semantics"].max() == 17  # peers assert 0..17
    assert not files["mask_camera"][0, 0].any() and not files["mask_lidar"][0, 0].any()
    assert files["mask_camera"][1, 1].all() and files["semantics"][1, 1, 1] == 4
    assert {array.dtype for array in files.values()} == {np.dtype(np.uint8)}


def test_we_read_back_exactly_what_was_stored(world_dataset: DatasetSpec, tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    path.write_bytes(encode_labels(labels_with_unknown(), OCC3D))
    back = read_labels(path, "token", world_dataset.model_copy(update={"grid": GRID}))
    assert list(back) == ["semantics", "mask_lidar", "mask_camera"]
    for name, values in labels_with_unknown().items():
        assert np.array_equal(back[name], values), name


def test_known_labels_have_the_three_published_arrays_only() -> None:
    labels = labels_with_unknown()
    labels["semantics"][0, 0] = 17
    files = load(encode_labels(labels, OCC3D))
    assert list(files) == ["semantics", "mask_lidar", "mask_camera"]
    assert all(np.array_equal(files[name], values) for name, values in labels.items())


def test_files_of_a_store_equal_their_source_and_go_back(
    world_dataset: DatasetSpec, stored: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    out = tmp_path / "npz"
    assert write_label_files(world_dataset, stored, out, sync_runtime).done == 4
    for path in sorted(world_dataset.root.glob("gts/*/*/labels.npz")):
        ours, theirs = load((out / path.relative_to(world_dataset.root)).read_bytes()), load(path.read_bytes())
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    again = world_dataset.model_copy(update={"labels": str(out / "gts"), "work": tmp_path / "work"})
    shutil.copytree(stored / "records", again.work / "records")
    make_occupancy(again, again.work, Occ3dConfig(), sync_runtime)
    rows = open_store(again.work / "occupancy.zarr", "occupancy")["semantics"]
    assert np.array_equal(rows[:], open_store(stored / "occupancy.zarr", "occupancy")["semantics"][:])


def test_a_rerun_continues_and_gives_the_same_bytes(
    world_dataset: DatasetSpec, stored: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    threads = Runtime(scheduler=Scheduler(kind="threads", workers=2))
    write_label_files(world_dataset, stored, whole, sync_runtime)
    write_label_files(world_dataset, stored, broken, threads)
    assert files_below(whole) == files_below(broken)
    # as if killed in the second scene: its marker and the manifest are missing, a temporary file lies about
    (broken / "manifest.json").unlink()
    (broken / "units/synth-0001.json").unlink()
    kept = next((broken / "gts/synth-0000").rglob("labels.npz"))
    before = kept.stat().st_mtime_ns
    victim = next((broken / "gts/synth-0001").rglob("labels.npz"))
    victim.rename(victim.with_name("labels.npz.partial"))
    write_label_files(world_dataset, stored, broken, sync_runtime)
    assert files_below(whole) == files_below(broken)
    assert kept.stat().st_mtime_ns == before


def test_refuses_foreign_folders_and_unfinished_stores(
    world_dataset: DatasetSpec, stored: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"was not made by this stage .*holds thesis.txt"):
        write_label_files(world_dataset, stored, tmp_path / "mine", sync_runtime)
    assert (tmp_path / "mine/thesis.txt").read_text() == "precious"
    with pytest.raises(DataError, match="not finished"):
        write_label_files(world_dataset, tmp_path, tmp_path / "npz", sync_runtime)
