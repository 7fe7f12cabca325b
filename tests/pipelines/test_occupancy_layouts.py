"""Layouts of label files as people have them: names of arrays, numbers of classes, types; what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy.export import encode_labels
from pipelines.occupancy.layouts import LAYOUTS, LayoutName
from pipelines.occupancy.occ3d import read_labels
from schemas.classes import OCC3D, ClassTable
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.images import ImageSpec

SHAPE = (2, 3, 4)
DATASET = DatasetSpec(
    name="files", format="nuscenes", root=Path("nowhere"), version="v1", work=Path("nowhere"),
    image=ImageSpec(resize=(160, 90), crop=(0, 0, 160, 90)), splits={"train": SplitSpec(scenes=("s",))},
    grid=VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=SHAPE),
)  # fmt: skip
ZEROS = np.zeros(SHAPE, np.uint8)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def one(label: int, elsewhere: int, dtype: type = np.uint8) -> np.ndarray:
    """An array of one number, with another in its first voxel."""
    numbers = np.full(SHAPE, elsewhere, dtype)
    numbers[0, 0, 0] = label
    return numbers


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.uint16])
def test_masks_of_any_whole_type(tmp_path: Path, dtype: type) -> None:
    semantics = one(255, 17, np.int64)
    mask = one(1, 0, dtype)
    path = write(tmp_path / "labels.npz", semantics=semantics, mask_lidar=mask, mask_camera=mask)
    labels = read_labels(path, "token", DATASET)
    assert {name: values.dtype for name, values in labels.items()} == dict.fromkeys(labels, np.dtype(np.uint8))
    assert labels["semantics"][0, 0, 0] == 255 and (labels["semantics"].ravel()[1:] == 17).all()
    assert labels["mask_lidar"].sum() == labels["mask_camera"].sum() == 1


def test_own_files_come_back_as_they_were(tmp_path: Path) -> None:
    """Also where the class is unknown and the masks say observed, under numbers of another table."""
    random = np.random.default_rng(0)
    table = ClassTable(names=("free", "car", "vegetation"), colors=((0, 0, 0),) * 3, free=0, ignored=200)
    labels = {"semantics": random.choice(np.array([0, 1, 2, 200], np.uint8), SHAPE)}
    labels |= {name: random.integers(0, 2, SHAPE).astype(np.uint8) for name in ("mask_lidar", "mask_camera")}
    labels["mask_camera"] &= labels["mask_lidar"]
    path = tmp_path / "labels.npz"
    path.write_bytes(encode_labels(labels, table))
    others = {name: "car" for name in OCC3D.occupied if name not in table.occupied}
    dataset = DATASET.model_copy(update={"classes": table, "categories": others})
    again = read_labels(path, "token", dataset)
    assert all(np.array_equal(again[name], labels[name]) for name in labels)


def test_openocc_numbers_and_no_masks(tmp_path: Path) -> None:
    """car 0 to vegetation 15, free 16; every known voxel counts as observed, flow is not read."""
    path = write(tmp_path / "labels.npz", semantics=one(0, 16, np.int64), flow=np.zeros((*SHAPE, 2), np.float32))
    labels = read_labels(path, "token", DATASET, "openocc-v2")
    assert labels["semantics"][0, 0, 0] == OCC3D.index("car") and (labels["semantics"] == 17).sum() == 23
    assert labels["mask_lidar"].all() and labels["mask_camera"].all()
    for number, name in enumerate(LAYOUTS["openocc-v2"].classes):
        path = write(tmp_path / "labels.npz", semantics=one(number, 255))
        labels = read_labels(path, "token", DATASET, "openocc-v2")
        assert OCC3D.names[labels["semantics"][0, 0, 0]] == name
        assert labels["mask_camera"].sum() == 1  # the others are unknown


def test_waymo_arrays_and_both_numbers_of_free(tmp_path: Path) -> None:
    arrays = {"origin_voxel_state": one(1, 0), "final_voxel_state": one(0, 1), "infov": ZEROS}
    path = write(tmp_path / "labels.npz", voxel_label=one(15, 23), **arrays)
    with pytest.raises(ConfigError, match=r"class 'general_object', its class table has not.*`categories`"):
        read_labels(path, "token", DATASET, "occ3d-waymo")
    names = LAYOUTS["occ3d-waymo"].classes
    table = ClassTable(names=names, colors=((0, 0, 0),) * 16, free=15)
    labels = read_labels(path, "token", DATASET.model_copy(update={"classes": table}), "occ3d-waymo")
    assert (labels["semantics"] == 15).all()
    assert labels["mask_lidar"].sum() == 1 and labels["mask_camera"].sum() == 23


@pytest.mark.parametrize(
    ("layout", "arrays", "words"),
    [
        ("occ3d", ["voxel_label", "origin_voxel_state", "final_voxel_state", "infov"],
         r"'semantics' is missing; expected semantics, mask_lidar, mask_camera, found final_voxel_state, infov, "
         r"origin_voxel_state, voxel_label. .*--source occ3d-waymo"),
        ("occ3d", ["semantics", "flow"], r"'mask_lidar' is missing; .*found flow, semantics. .*--source openocc-v2"),
        ("occ3d-waymo", ["semantics", "mask_lidar", "mask_camera"], "'voxel_label' is missing.*--source occ3d"),
        ("occ3d", ["arr_0"], "expected semantics, mask_lidar, mask_camera, found arr_0$"),
        ("occ3d", ["gt", "mask_lidar"], "'semantics' is missing.*found gt, mask_lidar$"),
    ],
)  # fmt: skip
def test_unknown_layouts_are_refused_by_name(tmp_path: Path, layout: LayoutName, arrays: list[str], words: str) -> None:
    path = write(tmp_path / "labels.npz", **dict.fromkeys(arrays, ZEROS))
    with pytest.raises(DataError, match=words) as caught:
        read_labels(path, "the-token", DATASET, layout)
    assert "the-token" in str(caught.value)


def test_numbers_that_are_no_class_of_the_layout(tmp_path: Path) -> None:
    for layout, number, words in (
        ("openocc-v2", 17, r"holds 17, expected 0\.\.16 \(free 16\) or 255"),
        ("occ3d-waymo", 22, r"holds 22, expected 0\.\.15 \(free 15 or 23\) or 255"),
    ):
        table = ClassTable(names=LAYOUTS["occ3d-waymo"].classes, colors=((0, 0, 0),) * 16, free=15)
        dataset = DATASET if layout == "openocc-v2" else DATASET.model_copy(update={"classes": table})
        rules = LAYOUTS[layout]  # type: ignore[index]
        path = write(tmp_path / "labels.npz", **dict.fromkeys(rules.required, ZEROS))
        write(path, **{**dict.fromkeys(rules.required, ZEROS), rules.arrays["semantics"]: one(number, 0)})
        with pytest.raises(DataError, match=words):
            read_labels(path, "token", dataset, layout)  # type: ignore[arg-type]


def test_real_file_in_other_types(real_occ3d: Path, tmp_path: Path) -> None:
    path = next(real_occ3d.glob("gts/*/*/labels.npz"))
    dataset = DATASET.model_copy(update={"grid": OCC3D_GRID})
    labels = read_labels(path, "token", dataset)
    other = write(
        tmp_path / "labels.npz",
        semantics=labels["semantics"].astype(np.int64),
        **{name: labels[name].astype(bool) for name in ("mask_lidar", "mask_camera")},
    )
    again = read_labels(other, "token", dataset)
    own = tmp_path / "own.npz"
    own.write_bytes(encode_labels(labels, OCC3D))
    for name, values in labels.items():
        assert np.array_equal(again[name], values) and np.array_equal(read_labels(own, "t", dataset)[name], values)
