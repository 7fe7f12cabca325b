"""Image-guided refinement: hand-made grids with known answers, class images on disk, a generated world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.occupancy import ImageLabels, LidarConfig, make_occupancy
from pipelines.occupancy.carving import count_claims
from pipelines.occupancy.refine import read_class_images, refuted_voxels
from pipelines.occupancy.scene import label_scene, read_scene
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.synth.sensors import TRUTH_BASE
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import VoxelGrid
from schemas.records import SampleRecord, read_index, read_records
from schemas.voxels.visibility import View
from tests.conftest import SMALL_GRID

GRID = VoxelGrid(minimum_m=(0.0, -5.5, -2.5), voxel_size_m=1.0, shape=(20, 11, 5))
CAR, PERSON, ROAD, MANMADE, VEGETATION, FREE, UNKNOWN = 4, 7, 11, 15, 16, 17, 255
CAMERA = "CAM_FRONT"


def view() -> View:
    """A camera in voxel (0, 5, 2) that looks along x; one metre 8 m away is 12.5 of its 100 pixels."""
    ego_from_camera = np.eye(4)
    ego_from_camera[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    ego_from_camera[:3, 3] = [0.5, 0.0, 0.0]
    return View(np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]), 100, 100, ego_from_camera)


def wall(label: int) -> np.ndarray:
    semantics = np.full(GRID.shape, FREE, dtype=np.uint8)
    semantics[15] = label
    return semantics


def picture(label: int) -> np.ndarray:
    return np.full((100, 100), label, dtype=np.uint8)


def refuted(semantics: np.ndarray, image: np.ndarray, min_rays: int = 2) -> list[list[int]]:
    voxels = refuted_voxels(GRID, OCC3D, semantics, [(view(), image)], rays_per_voxel=1.5, min_rays=min_rays)
    return np.argwhere(voxels).tolist()


@pytest.mark.parametrize("ghost", [MANMADE, UNKNOWN])
def test_a_ghost_before_a_car_goes(ghost: int) -> None:
    semantics = wall(CAR)
    semantics[8, 5, 2] = ghost
    assert refuted(semantics, picture(CAR)) == [[8, 5, 2]]


def test_few_rays_prove_nothing() -> None:
    """The ghost is 12.5 pixels wide and high: 5.3 columns of rays 2.4 pixels apart, 27 rows 0.5 apart."""
    semantics = wall(CAR)
    semantics[8, 5, 2] = MANMADE
    assert refuted(semantics, picture(CAR), min_rays=100) == [[8, 5, 2]]
    assert refuted(semantics, picture(CAR), min_rays=200) == []


def test_a_thin_pole_stays() -> None:
    """Four fifths of the pixels of the pole's voxel show the car behind it."""
    semantics, image = wall(CAR), picture(CAR)
    semantics[8, 5, 2] = MANMADE
    image[:, 49:52] = MANMADE
    assert refuted(semantics, image) == []


def test_far_corners_of_a_thing_stay() -> None:
    """The car fills the middle of its voxels only; rays past its edges pass all of them and meet the wall."""
    semantics, image = wall(MANMADE), picture(MANMADE)
    semantics[8:12, 4:7, 1:4] = CAR
    image[35:65, 35:65] = CAR
    assert refuted(semantics, image) == []


def test_what_lies_behind_stays() -> None:
    semantics = wall(CAR)
    semantics[17, 5, 2] = MANMADE
    assert refuted(semantics, picture(CAR)) == []


def test_ground_stays() -> None:
    semantics = wall(CAR)
    semantics[4:12, :, 1] = ROAD
    assert refuted(semantics, picture(CAR)) == []


@pytest.mark.parametrize("label", [VEGETATION, FREE, UNKNOWN])
def test_a_class_that_no_voxel_has_changes_nothing(label: int) -> None:
    """Pixels of the sky and unknown ones are no exception, even where unknown voxels are."""
    semantics = wall(UNKNOWN)
    semantics[8, 5, 2] = MANMADE
    assert refuted(semantics, picture(label)) == []


def test_small_images_cover_the_same_view() -> None:
    semantics, image = wall(CAR), np.full((10, 10), UNKNOWN, dtype=np.uint8)
    semantics[8, 2, 2] = semantics[8, 8, 2] = MANMADE
    image[:, 5:] = CAR  # right half: negative y
    assert refuted(semantics, image) == [[8, 2, 2]]


def test_claims_of_one_ray() -> None:
    """free, person, car, person, car, car along x: a car ray passes two voxels before its class, three are cars."""
    semantics = np.array([FREE, PERSON, CAR, PERSON, CAR, CAR], dtype=np.uint8).reshape(6, 1, 1)
    along_x = np.array([[1.0, 0.0, 0.0]])
    against, in_favour = count_claims(semantics, np.array([0.5, 0.5, 0.5]), along_x, np.array([CAR], np.uint8))
    assert against.ravel().tolist() == [1, 1, 0, 0, 0, 0]
    assert in_favour.ravel().tolist() == [0, 0, 1, 0, 1, 1]


@pytest.fixture
def record(prepared: Path) -> SampleRecord:
    return read_records(prepared / "records", read_index(prepared / "records"))[0]


def write(root: Path, record: SampleRecord, image: np.ndarray) -> None:
    folder = root / "seen" / record.scene / record.token
    folder.mkdir(parents=True)
    assert cv2.imwrite(str(folder / f"{CAMERA}.png"), image)


def test_both_depths_of_class_images_are_read(record: SampleRecord, tmp_path: Path) -> None:
    classes = np.tile(np.array([0, CAR, 16, FREE], np.uint8), (9, 4))
    write(tmp_path / "8", record, classes)
    write(tmp_path / "16", record, classes.astype(np.uint16) * TRUTH_BASE + 2047)
    for depth in ("8", "16"):
        images = read_class_images(tmp_path / depth / "seen", record, [CAMERA])
        np.testing.assert_array_equal(images[CAMERA], classes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((90, 90), np.uint8), "90 x 90 pixels, the camera's image 400 x 225"),
        (np.zeros((225, 400, 3), np.uint8), "no whole grey PNG"),
    ],
)
def test_other_images_are_refused(record: SampleRecord, tmp_path: Path, image: np.ndarray, message: str) -> None:
    write(tmp_path, record, image)
    with pytest.raises(DataError, match=message) as caught:
        read_class_images(tmp_path / "seen", record, [CAMERA])
    assert record.token in str(caught.value) and f"{CAMERA}.png" in str(caught.value)


def test_a_missing_image_says_nothing(record: SampleRecord, tmp_path: Path) -> None:
    write(tmp_path, record, np.zeros((9, 16), np.uint8))
    assert list(read_class_images(tmp_path / "seen", record, ["CAM_BACK", CAMERA])) == [CAMERA]


def label(dataset: DatasetSpec, work: Path, config: LidarConfig, runtime: Runtime) -> dict[str, np.ndarray]:
    """Labels of the first scene; no split names the others."""
    dataset = dataset.model_copy(update={"splits": {"train": SplitSpec(scenes=("synth-0000",))}})
    prepare(dataset, work, runtime)
    summary = make_occupancy(dataset, work, config, runtime)
    store = open_store(work / "occupancy.zarr", "occupancy")
    arrays = {name: np.asarray(store[name][:]) for name in ("semantics", "mask_lidar", "mask_camera")}
    return arrays | {"freed": np.array(summary.counts.get("freed_by_images", -1))}


@pytest.mark.slow
def test_a_generated_world_with_its_own_class_images(
    world_dataset: DatasetSpec, prepared: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    config = LidarConfig(image_labels=ImageLabels(folder="truth"))
    plain = label(world_dataset, tmp_path / "plain", LidarConfig(), sync_runtime)
    refined = label(world_dataset, tmp_path / "refined", config, sync_runtime)
    changed = plain["semantics"] != refined["semantics"]
    assert plain["freed"] == -1 and 0 < changed.sum() == refined["freed"]
    assert (refined["semantics"][changed] == FREE).all()
    np.testing.assert_array_equal(refined["mask_lidar"], plain["mask_lidar"])
    assert (refined["mask_camera"] <= refined["mask_lidar"]).all()
    assert (refined["mask_camera"] >= plain["mask_camera"]).all(), "fewer voxels stop fewer rays"
    records = read_records(prepared / "records", read_index(prepared / "records")[:2])
    parts = read_scene(world_dataset, config, records, prepared / "records", drop_broken=False)
    _, again, _ = next(label_scene(parts, records, [0]))
    for name, array in again.items():
        np.testing.assert_array_equal(array, refined[name][0])
    plan = json.loads((tmp_path / "plain/occupancy.zarr/plan.json").read_text())
    assert "image_labels" not in plan["config"]["source"], "older stores can be taken up again"


def test_missing_images_are_counted_a_missing_folder_is_refused(
    world_dataset: DatasetSpec, prepared: Path, tmp_path: Path, sync_runtime: Runtime
) -> None:
    config = LidarConfig(image_labels=ImageLabels(folder="nowhere"))
    with pytest.raises(ConfigError, match=r"--image-labels nowhere: .*nowhere is no folder. .*CAMERA.png"):
        label(world_dataset, tmp_path / "refused", config, sync_runtime)
    records = read_records(prepared / "records", read_index(prepared / "records")[:2])
    shutil.copytree(world_dataset.root / "truth" / "synth-0000", tmp_path / "root" / "truth" / "synth-0000")
    for name in ("v1.0-synth", "samples", "sweeps", "lidarseg"):
        (tmp_path / "root" / name).symlink_to(world_dataset.root / name)
    next((tmp_path / "root" / "truth" / "synth-0000" / records[1].token).glob("CAM_*.png")).unlink()
    dataset = world_dataset.model_copy(update={"root": tmp_path / "root", "grid": SMALL_GRID})
    config = LidarConfig(image_labels=ImageLabels(folder="truth"))
    parts = read_scene(dataset, config, records, prepared / "records", drop_broken=False)
    counts = [counts["keyframes_without_pictures"] for _, _, counts in label_scene(parts, records, [0, 1])]
    assert counts == [0.0, 1.0]
