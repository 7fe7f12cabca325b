"""Depth maps of the user's: read, brought to the network's image without mixing, packed and back-projected."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.depth_maps import REMEDY, read_depth_map, to_network_image
from pipelines.pack import PackConfig, pack
from pipelines.pixel_truth import truth_paths
from protoocc.data import ShardDataset, collate, open_shards
from protoocc.model.pseudo_lidar import depth_cells
from schemas.errors import DataError, StageError
from schemas.images import ImageSpec
from schemas.outside import Source
from schemas.records import read_index, read_records

TOKEN = "08-000005"


def save(path: Path, depth: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, depth)
    else:
        cv2.imwrite(str(path), depth)
    return path


def read(path: Path) -> np.ndarray:
    """A map of a camera file of 2 x 3 pixels."""
    return read_depth_map(Source(f"sample {TOKEN}: depth map {path}", REMEDY), path, (2, 3))


def test_npy_holds_metres_and_png_256ths_of_them(tmp_path: Path) -> None:
    depth = np.array([[0.0, 1.5, 80.25], [2.0, 0.0, 3.0]], np.float32)
    assert (read(save(tmp_path / "a.npy", depth)) == depth).all()
    assert (read(save(tmp_path / "a.png", (depth * 256).astype(np.uint16))) == depth).all()


@pytest.mark.parametrize(
    ("name", "depth", "message"),
    [
        ("a.npy", np.zeros((3, 2), np.float32), r"float32 \(3, 2\), expected float32 \(2, 3\)"),
        ("a.npy", np.zeros((2, 3), np.int32), "int32"),
        ("a.npy", np.full((2, 3), -1, np.float32), "a depth of -1"),
        ("a.npy", np.full((2, 3), np.nan, np.float32), "a depth of nan"),
        ("a.png", np.zeros((2, 3), np.uint8), "8-bit"),
        ("a.png", np.zeros((2, 4), np.uint16), r"\(2, 4\)"),
    ],
)
def test_what_is_no_depth_map_of_the_image_is_refused(
    tmp_path: Path, name: str, depth: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(save(tmp_path / name, depth))
    assert TOKEN in str(error.value) and name in str(error.value)


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"08-000005: depth map .*b\.npy: cannot be read"):
        read(tmp_path / "b.npy")


def test_a_crop_keeps_every_value_in_its_place() -> None:
    depth = np.arange(24, dtype=np.float32).reshape(4, 6)
    image = to_network_image(depth, ImageSpec(resize=None, crop=(1, 2, 4, 2)))
    assert (image == depth[2:4, 1:5]).all()


def test_shrinking_keeps_the_nearest_depth_and_no_value_between_two() -> None:
    depth = np.array(
        [[2.0, 9.0, 0.0, 0.0], [9.0, 9.0, 0.0, 7.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 30.0, 0.0]], np.float32
    )
    image = to_network_image(depth, ImageSpec(resize=(2, 2), crop=(0, 0, 2, 2)))
    assert image.tolist() == [[2.0, 7.0], [0.0, 4.0]]


def test_growing_repeats_the_depth_of_a_pixel() -> None:
    depth = np.array([[2.0, 9.0]], np.float32)
    image = to_network_image(depth, ImageSpec(resize=(4, 2), crop=(0, 0, 4, 2)))
    assert image.tolist() == [[2.0, 2.0, 9.0, 9.0]] * 2


@pytest.fixture(scope="module")
def maps(stored: Path, world_dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exact depth of the generated world, in the form that users give."""
    folder = tmp_path_factory.mktemp("maps")
    for record in read_records(stored / "records", read_index(stored / "records")):
        truth = [path for path in truth_paths(world_dataset, record) if path.name.endswith("-depth.png")]
        for channel, path in zip(world_dataset.cameras, truth, strict=True):
            target = (folder / record.cameras[channel].path).with_suffix(".npy")
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 100)
    return folder


@pytest.fixture(scope="module")
def shards(stored: Path, world_dataset, maps: Path, sync_runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work") / "work"
    shutil.copytree(stored, work, ignore=shutil.ignore_patterns("shards*"))
    return pack(world_dataset, work, PackConfig(depth=True, depth_maps=str(maps)), sync_runtime).folder


def test_maps_come_back_from_the_shards_and_agree_with_the_lidar(shards: Path) -> None:
    keyframe = ShardDataset(open_shards(shards, "val"))[0]
    assert keyframe.input_depth_m is not None and keyframe.depth_m is not None
    both = (keyframe.depth_m > 0) & (keyframe.input_depth_m > 0)
    assert both.sum() > 500
    difference = np.abs(keyframe.depth_m - keyframe.input_depth_m)[both] / keyframe.input_depth_m[both]
    assert np.median(difference) < 0.03


def test_pixels_of_the_world_fall_into_occupied_voxels(shards: Path) -> None:
    opened = open_shards(shards, "val")
    keyframe = ShardDataset(opened)[0]
    grid, free = opened.dataset.grid, opened.dataset.classes.free
    cells = depth_cells(collate([keyframe]), grid, grid.shape)[0]
    occupied = torch.from_numpy(keyframe.semantics != free)
    nearby = torch.nn.functional.max_pool3d(occupied[None].float(), 3, stride=1, padding=1)[0] > 0
    assert cells.sum() > 1000
    assert (occupied & cells).sum() / cells.sum() > 0.6
    assert (nearby & cells).sum() / cells.sum() > 0.95
    assert cells.float().mean() < 0.2


def test_lidar_points_are_the_input_where_there_are_no_maps(
    stored: Path, world_dataset, sync_runtime, tmp_path: Path
) -> None:
    shutil.copytree(stored, tmp_path / "work", ignore=shutil.ignore_patterns("shards*"))
    folder = pack(world_dataset, tmp_path / "work", PackConfig(depth=True), sync_runtime).folder
    keyframe = ShardDataset(open_shards(folder, "val"))[0]
    assert keyframe.depth_m is not None and keyframe.input_depth_m is not None
    assert (keyframe.input_depth_m == keyframe.depth_m).all()
    assert "depth_maps" not in (folder / "manifest.json").read_text().split('"config"')[0]


def test_a_folder_without_a_map_names_the_sample_and_the_path(
    stored: Path, world_dataset, sync_runtime, tmp_path: Path
) -> None:
    shutil.copytree(stored, tmp_path / "work", ignore=shutil.ignore_patterns("shards*"))
    (tmp_path / "none").mkdir()
    with pytest.raises((DataError, StageError), match=r"no depth map .*samples/CAM_FRONT/.*\.npy or \.png"):
        pack(world_dataset, tmp_path / "work", PackConfig(depth_maps=str(tmp_path / "none")), sync_runtime)
