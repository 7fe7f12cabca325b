"""SurroundOcc and OpenOccupancy files that the tests write: axes, classes, masks, resampling, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipelines.occupancy import ImportConfig, LidarConfig, make_occupancy
from pipelines.occupancy.label_sets import LABEL_SETS
from pipelines.occupancy.resample import resample
from pipelines.pack import PackConfig, pack
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, StageError
from schemas.geometry import OCC3D_GRID, VoxelGrid, transform_points
from schemas.records import SampleRecord, read_index, read_records

Kind = Literal["surroundocc", "openoccupancy"]
CAR, MANMADE, VEGETATION, FREE, IGNORED = 4, 15, 16, 17, 255


def voxel(grid: VoxelGrid, x: float, y: float, z: float) -> tuple[int, ...]:
    return tuple(grid.voxel_index(np.array([[x, y, z]]))[0].tolist())


def surroundocc_file(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> Path:
    return folder / f"{Path(record.lidar.path).name}.npy"


def openoccupancy_file(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> Path:
    scenes = json.loads((dataset.root / "v1.0-synth/scene.json").read_text())
    token = {row["name"]: row["token"] for row in scenes}[record.scene]
    return folder / f"scene_{token}" / "occupancy" / f"{record.lidar.token}.npy"


FILES: dict[Kind, Callable[[Path, DatasetSpec, SampleRecord], Path]] = {
    "surroundocc": surroundocc_file,
    "openoccupancy": openoccupancy_file,
}
ORDER: dict[Kind, tuple[int, int, int]] = {"surroundocc": (0, 1, 2), "openoccupancy": (2, 1, 0)}
POINTS_LIDAR = {(10.1, -5.1, 0.1): CAR, (-20.1, 30.1, 1.1): MANMADE, (3.1, 2.1, -1.3): 0}
"""Points in the LiDAR frame, metres, and the class of their voxels; class 0 is noise."""


def write_set(kind: Kind, folder: Path, dataset: DatasetSpec, work: Path) -> list[Path]:
    """One file per keyframe with the voxels of `POINTS_LIDAR`."""
    grid = LABEL_SETS[kind].grid
    rows = []
    for point, label in POINTS_LIDAR.items():
        index = voxel(grid, *point)
        rows.append([*(index[axis] for axis in ORDER[kind]), label])
    paths = [
        FILES[kind](folder, dataset, record) for record in read_records(work / "records", read_index(work / "records"))
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.array(rows))
    return paths


@pytest.fixture
def tables(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """The tiny world without its sensor files, so that no return contradicts a list of three voxels; nor boxes."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "v1.0-synth").symlink_to(world_dataset.root / "v1.0-synth")
    return world_dataset.model_copy(update={"root": tmp_path / "root"})


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """A work folder of its own with the tiny world's records."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("records", "geometry.zarr"):
        (folder / name).symlink_to(prepared / name)
    return folder


@pytest.mark.parametrize("kind", ["surroundocc", "openoccupancy"])
def test_labels_stay_in_their_own_grid(
    kind: Kind, tables: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    grid = LABEL_SETS[kind].grid
    dataset = tables.model_copy(update={"grid": grid})
    write_set(kind, tmp_path / "labels", dataset, work)
    config = ImportConfig(kind=kind, labels=tmp_path / "labels")
    assert make_occupancy(dataset, work, config, sync_runtime).done == 4
    arrays = open_store(work / "occupancy.zarr", "occupancy")
    semantics, masks = np.asarray(arrays["semantics"][3]), np.asarray(arrays["mask_camera"][3])
    assert semantics.shape == grid.shape
    for point, label in POINTS_LIDAR.items():
        assert semantics[voxel(grid, *point)] == (label or IGNORED)
    assert (semantics != FREE).sum() == 3
    assert np.array_equal(masks, semantics != IGNORED)
    assert np.array_equal(masks, arrays["mask_lidar"][3])


def test_surroundocc_folder_with_samples(
    tables: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    """The published archive holds a folder `samples`."""
    dataset = tables.model_copy(update={"grid": LABEL_SETS["surroundocc"].grid})
    write_set("surroundocc", tmp_path / "labels" / "samples", dataset, work)
    config = ImportConfig(kind="surroundocc", labels=tmp_path / "labels")
    assert make_occupancy(dataset, work, config, sync_runtime).done == 4


@pytest.mark.parametrize("kind", ["surroundocc", pytest.param("openoccupancy", marks=pytest.mark.slow)])
def test_resampled_labels_lie_where_the_points_are_in_the_ego_frame(
    kind: Kind, tables: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    write_set(kind, tmp_path / "labels", tables, work)
    config = ImportConfig(kind=kind, labels=tmp_path / "labels")
    with pytest.raises(ConfigError, match=rf"{kind} has the grid .*frame: lidar.*--resample"):
        make_occupancy(tables, work, config, sync_runtime)
    config = config.model_copy(update={"resample": True})
    make_occupancy(tables, work, config, sync_runtime)
    semantics = np.asarray(open_store(work / "occupancy.zarr", "occupancy")["semantics"][0])
    record = read_records(work / "records", read_index(work / "records"))[0]
    source = LABEL_SETS[kind].grid
    for point, label in POINTS_LIDAR.items():
        low = np.array(source.minimum_m) + np.array(voxel(source, *point)) * source.voxel_size_m
        middle_ego = transform_points(record.lidar.ego_from_lidar.matrix, (low + source.voxel_size_m / 2)[None])
        near = semantics[tuple(OCC3D_GRID.voxel_index(middle_ego)[0])]
        assert near == (label or IGNORED)
    # the sets reach 50 and 51.2 m to all sides and from -5 to 3 m in the LiDAR frame, 1.84 m above the ground
    assert semantics[voxel(OCC3D_GRID, 0.1, 0.1, 5.3)] == IGNORED
    assert semantics[voxel(OCC3D_GRID, 0.1, 30.0, 0.1)] == FREE


def grid_of(size_m: float, cells: int, minimum_m: float = 0.0) -> VoxelGrid:
    return VoxelGrid(minimum_m=(minimum_m,) * 3, voxel_size_m=size_m, shape=(cells,) * 3)


def test_resampling_rule_by_hand() -> None:
    """Eight voxels of 0.2 m make one of 0.4 m."""
    source, target = grid_of(0.2, 4), grid_of(0.4, 2)
    semantics = np.full(source.shape, FREE, np.uint8)
    semantics[0, 0, 0] = CAR  # one of eight is enough
    semantics[2, 0, 0], semantics[3, 0, 0] = MANMADE, CAR  # equal: the lower one
    semantics[0, 2, 0], semantics[1, 2, 0], semantics[0, 3, 0] = VEGETATION, VEGETATION, CAR  # two against one
    semantics[0, 0, 2], semantics[0, 0, 3] = IGNORED, CAR  # known before unknown
    semantics[2, 2, 0] = IGNORED  # else unknown
    expected = np.full(target.shape, FREE, np.uint8)
    expected[0, 0, 0] = expected[1, 0, 0] = expected[0, 0, 1] = CAR
    expected[0, 1, 0] = VEGETATION
    expected[1, 1, 0] = IGNORED
    assert np.array_equal(resample(semantics, source, target, ego_from_lidar=np.eye(4), table=OCC3D), expected)


def test_resampling_to_finer_and_beyond() -> None:
    """0.5 m to 0.4 m: each centre looks up its voxel; centres at -0.2, 0.2, 0.6, 1.0 m."""
    source, target = grid_of(0.5, 2), grid_of(0.4, 4, -0.4)
    semantics = np.full(source.shape, FREE, np.uint8)
    semantics[1, 0, 0] = CAR  # x from 0.5 to 1.0
    result = resample(semantics, source, target, ego_from_lidar=np.eye(4), table=OCC3D)
    assert result[:, 1, 1].tolist() == [IGNORED, FREE, CAR, IGNORED]
    assert (result[0] == IGNORED).all()


def test_resampling_between_frames() -> None:
    """The LiDAR looks along the vehicle's right side: its x axis is the ego frame's -y."""
    source = VoxelGrid(minimum_m=(-4.0, -4.0, -4.0), voxel_size_m=1.0, shape=(8, 8, 8), frame="lidar")
    target = grid_of(1.0, 8, -4.0)
    semantics = np.full(source.shape, FREE, np.uint8)
    semantics[voxel(source, 2.5, 0.5, 0.5)] = CAR
    ego_from_lidar = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    result = resample(semantics, source, target, ego_from_lidar=ego_from_lidar, table=OCC3D)
    assert np.argwhere(result == CAR).tolist() == [list(voxel(target, 0.5, -2.5, 1.5))]


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-9])
    return r"is damaged: the header declares \(3, 4\) of int64, 87 bytes follow"


def wrong_shape(path: Path) -> str:
    np.save(path, np.zeros((5, 3), int))
    return r"int64 \(5, 3\), expected an array \(n, 4\)"


def outside(path: Path) -> str:
    np.save(path, np.array([[0, 0, 0, 4], [5, 5, 16, 4]]))
    return r"row 1 is \[5, 5, 16, 4\], expected voxel indices below \(200, 200, 16\)"


def unknown_class(path: Path) -> str:
    np.save(path, np.array([[0, 0, 0, 17]]))
    return r"and a class 0\.\.16"


def fraction(path: Path) -> str:
    np.save(path, np.array([[0.5, 0, 0, 4]]))
    return "expected whole numbers"


def enormous(path: Path) -> str:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999, 4), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return r"the header declares \(9999999999, 4\) of int64, at most 5,120,000 bytes"


@pytest.mark.parametrize("damage", [cut, wrong_shape, outside, unknown_class, fraction, enormous])
def test_broken_files_are_named_or_dropped(
    damage: Callable[[Path], str], tables: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    dataset = tables.model_copy(update={"grid": LABEL_SETS["surroundocc"].grid})
    path = write_set("surroundocc", tmp_path / "labels", dataset, work)[2]
    message = damage(path)
    token = read_records(work / "records", read_index(work / "records"))[2].token
    config = ImportConfig(kind="surroundocc", labels=tmp_path / "labels")
    with pytest.raises(StageError, match=rf"{path.name} \(sample {token}\).*{message}"):
        make_occupancy(dataset, work, config, sync_runtime)
    summary = make_occupancy(dataset, work, config, replace(sync_runtime, on_error="drop", overwrite=True))
    assert summary.done == 3 and list(summary.dropped) == [token]
    path.unlink()
    holed = make_occupancy(dataset, work, config, replace(sync_runtime, overwrite=True))
    assert list(holed.dropped) == [token] and holed.counts["keyframes_without_labels"] == 1


@pytest.mark.parametrize("kind", ["surroundocc", "openoccupancy"])
def test_lists_are_held_against_the_returns(
    kind: Kind, world_dataset: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    """Each file names the voxels with returns of its own keyframe; the same with x and y exchanged is refused."""
    grid = LABEL_SETS[kind].grid
    dataset = world_dataset.model_copy(update={"grid": grid})
    config = ImportConfig(kind=kind, labels=tmp_path / "labels")
    paths = write_set(kind, tmp_path / "labels", dataset, work)
    for record, path in zip(read_records(work / "records", read_index(work / "records")), paths, strict=True):
        points = np.fromfile(dataset.root / record.keyframe_sweep.path, "<f4").reshape(-1, 5)[:, :3]
        index = grid.voxel_index(points.astype(np.float64))
        index = np.unique(index[grid.contains(index)], axis=0)
        np.save(path, np.column_stack([index[:, ORDER[kind]], np.full(len(index), CAR)]))
    assert make_occupancy(dataset, work, config, sync_runtime).counts["keyframes_untested"] == 0
    rows = np.load(paths[0])
    exchanged = {"surroundocc": [1, 0, 2, 3], "openoccupancy": [0, 2, 1, 3]}[kind]
    np.save(paths[0], rows[:, exchanged])
    with pytest.raises(StageError, match=rf"{paths[0].name} .* cannot be right: .*with x and y exchanged"):
        make_occupancy(dataset, work, config, replace(sync_runtime, overwrite=True))


def test_what_needs_the_ego_frame_refuses_the_lidars(
    world_dataset: DatasetSpec, work: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    dataset = world_dataset.model_copy(update={"grid": LABEL_SETS["surroundocc"].grid})
    with pytest.raises(ConfigError, match="--source lidar gives labels in the ego frame"):
        make_occupancy(dataset, work, LidarConfig(), sync_runtime)
    with pytest.raises(ConfigError, match="shards and training need the ego frame.*--resample"):
        pack(dataset, work, PackConfig(), sync_runtime)
    with pytest.raises(ConfigError, match="no such folder"):
        config = ImportConfig(kind="surroundocc", labels=tmp_path / "nowhere")
        make_occupancy(dataset, work, config, sync_runtime)
