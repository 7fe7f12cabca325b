"""Photos and raw images as a network reads them: points land where they should before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from pipelines.camera_frames import photo_frame, photos_digest, record_frame, rig_images, seen_voxels
from pipelines.images import read_image
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import OCC3D_GRID, VoxelGrid, project_points, transform_points
from schemas.network_images import resize_and_crop
from schemas.records import read_index, read_records
from schemas.rig import Rig, load_rig
from schemas.workfolder import WorkFolder

POSES = {
    "ahead": [[0, 0, 1, 1.7], [-1, 0, 0, 0.2], [0, -1, 0, 1.5], [0, 0, 0, 1]],
    "left": [[1, 0, 0, 0.3], [0, 0, 1, 0.5], [0, -1, 0, 1.4], [0, 0, 0, 1]],
}
MATRICES = {"ahead": [[300, 0, 205], [0, 310, 140], [0, 0, 1]], "left": [[280, 0, 250], [0, 280, 190], [0, 0, 1]]}
SIZES = {"ahead": (400, 300), "left": (500, 375)}
MARK_EGO = {"ahead": (9.0, -1.0, 0.7), "left": (-1.0, 8.0, 1.2)}
"""A bright spot in the world, seen by one camera each."""


def make_photos(folder: Path, **fields: Any) -> tuple[Path, Rig]:
    """Two black photos, each with a bright spot where its mark is, and the calibration file."""
    folder.mkdir(exist_ok=True)
    cameras = {}
    for name, size in SIZES.items():
        u, v = spot(name, np.array(MATRICES[name], float))
        rows, columns = np.mgrid[0 : size[1], 0 : size[0]] + 0.5  # pixel centres
        light = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 6.0**2))
        cv2.imwrite(str(folder / f"{name}.png"), np.repeat(light.round().astype(np.uint8)[..., None], 3, axis=2))
        cameras[name] = {"photo": f"{name}.png", "intrinsics": MATRICES[name], "ego_from_camera": POSES[name]}
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump({**fields, "cameras": cameras}))
    return path, load_rig(path)


def spot(name: str, matrix: np.ndarray) -> tuple[float, float]:
    """Where the mark of a camera lands under intrinsics."""
    camera_from_ego = np.linalg.inv(np.array(POSES[name], float))
    uv_px, _ = project_points(matrix, transform_points(camera_from_ego, np.array([MARK_EGO[name]])))
    return float(uv_px[0, 0]), float(uv_px[0, 1])


@pytest.mark.parametrize("fields", [{}, {"image": {"resize": [128, 96], "crop": [10, 14, 96, 64]}}])
def test_points_land_where_the_pixels_are(tmp_path: Path, fields: dict[str, Any]) -> None:
    """The spot of each resized and cropped photo is where the new intrinsics project the mark, within 0.1 pixel."""
    path, rig = make_photos(tmp_path / "photos", **fields)
    images = rig_images(path, rig, path.parent, (64, 96))
    frame = photo_frame(path, rig, path.parent, images)
    assert frame.images.shape == (2, 64, 96, 3)
    for number, name in enumerate(rig.cameras):
        light = frame.images[number].mean(axis=2)
        rows, columns = np.mgrid[0:64, 0:96] + 0.5
        centre = ((columns * light).sum() / light.sum(), (rows * light).sum() / light.sum())
        np.testing.assert_allclose(spot(name, frame.image_from_camera[number].astype(float)), centre, atol=0.1)
        np.testing.assert_allclose(np.linalg.inv(frame.camera_from_ego[number]), POSES[name], atol=1e-6)


def test_intrinsics_are_scaled_exactly(tmp_path: Path) -> None:
    """Random points: resize by the factors of the sizes, then minus the corner, to float32."""
    path, rig = make_photos(tmp_path / "photos")
    images = rig_images(path, rig, path.parent, (64, 96))
    frame = photo_frame(path, rig, path.parent, images)
    points = np.random.default_rng(0).uniform((-3, -3, 2), (3, 3, 30), (100, 3))
    for number, (name, report) in enumerate(images.items()):
        (width, height), (left, top) = report.image.resized(SIZES[name]), report.image.crop[:2]
        before, _ = project_points(np.array(MATRICES[name], float), points)
        after, _ = project_points(frame.image_from_camera[number].astype(float), points)
        scaled = before * (width / SIZES[name][0], height / SIZES[name][1]) - (left, top)
        np.testing.assert_allclose(after, scaled, rtol=2e-6, atol=2e-4)
    assert "400x300 resized to 96x72, columns 0 to 96 and rows 8 to 72 kept" in images["ahead"].describe()
    assert "90 deg left of forward, 0 deg down" in images["left"].describe()


def test_photos_that_cannot_be(tmp_path: Path) -> None:
    path, rig = make_photos(tmp_path / "photos")
    with pytest.raises(ConfigError, match="does not say which size"):
        rig_images(path, rig, path.parent, None)
    images = rig_images(path, rig, path.parent, (64, 96))
    other = tmp_path / "other"
    make_photos(other)
    (other / "left.png").write_bytes((path.parent / "ahead.png").read_bytes())
    with pytest.raises(DataError, match=r"camera 'left'.*has 400x300 pixels, the first one.*500"):
        photo_frame(path, rig, other, images)
    (other / "left.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"camera 'left': photo .*neither JPEG nor PNG.*Correct it, or `photo`"):
        photo_frame(path, rig, other, images)
    (other / "left.png").unlink()
    for read in (lambda: photo_frame(path, rig, other, images), lambda: photos_digest(path, rig, [other])):
        with pytest.raises(DataError, match=r"camera 'left': photo .*left.png"):
            read()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"resize": [128, 64], "crop": [0, 0, 96, 64]}, "would stretch the photo of 400x300 pixels by 50 %"),
        ({"resize": None, "crop": [0, 0, 450, 300]}, "does not hold the crop"),
    ],
)
def test_an_image_that_does_not_fit(tmp_path: Path, image: dict[str, Any], words: str) -> None:
    path, rig = make_photos(tmp_path / "photos", image=image)
    with pytest.raises(ConfigError, match=words):
        rig_images(path, rig, path.parent, None)


def test_a_camera_that_sees_nothing_is_found(tmp_path: Path) -> None:
    path, rig = make_photos(tmp_path / "photos")
    frame = photo_frame(path, rig, path.parent, rig_images(path, rig, path.parent, (64, 96)))
    assert min(seen_voxels(frame, OCC3D_GRID)) > 10_000
    behind = VoxelGrid(minimum_m=(-40.0, -40.0, -1.0), voxel_size_m=1.0, shape=(20, 20, 4))
    assert seen_voxels(frame, behind) == [0, 0]


def test_records_give_the_pixels_and_matrices_of_the_stores(world_dataset: DatasetSpec, prepared: Path) -> None:
    folders = WorkFolder(prepared)
    record = read_records(folders.records, [read_index(folders.records)[1]])[0]
    frame = record_frame(world_dataset, record)
    store = open_store(folders.geometry, "geometry")
    for name in ("image_from_camera", "camera_from_ego"):
        np.testing.assert_array_equal(getattr(frame, name), store[name][1].astype(np.float32))
    channel = world_dataset.cameras[2]
    file = read_image(world_dataset.root / record.cameras[channel].path, record.token)
    np.testing.assert_array_equal(frame.images[2], resize_and_crop(file, world_dataset.image)[..., ::-1])
