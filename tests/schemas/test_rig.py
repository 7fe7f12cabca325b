"""Calibration files: what they may say, and one clear message for what they may not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from schemas.errors import ConfigError, DataError
from schemas.outside import Source
from schemas.rig import check_photo, fill_shape, load_rig

SMALL, HIGHER = {"resize": None, "crop": [0, 0, 64, 32]}, {"resize": None, "crop": [0, 0, 64, 48]}
FRONT: dict[str, Any] = {
    "photo": "front.jpg",
    "intrinsics": [[500, 0, 400], [0, 500, 225], [0, 0, 1]],
    "ego_from_camera": {"rotation_wxyz": [0.5, -0.5, 0.5, -0.5], "translation_m": [1.7, 0, 1.5]},
}
MATRIX = [[0, 0, 1, 1.7], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]


def write(folder: Path, rig: Any, name: str = "rig.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(rig) if name.endswith("json") else yaml.safe_dump(rig))
    return path


def with_front(**changes: Any) -> dict[str, Any]:
    return {"cameras": {"front": {**copy.deepcopy(FRONT), **changes}}}


@pytest.mark.parametrize("name", ["rig.yaml", "rig.json"])
def test_pose_as_quaternion_and_as_matrix(tmp_path: Path, name: str) -> None:
    """A camera that looks forward: its z axis is the ego's x axis, its x axis the ego's -y."""
    cameras = {"a": FRONT, "b": {**FRONT, "ego_from_camera": MATRIX}}
    rig = load_rig(write(tmp_path, {"cameras": cameras}, name))
    assert list(rig.cameras) == ["a", "b"]
    for camera in rig.cameras.values():
        np.testing.assert_allclose(camera.pose, MATRIX, atol=1e-12)


def test_intrinsics_of_another_size_are_scaled(tmp_path: Path) -> None:
    """From 800 x 450 to a photo of 1600 x 900: twice the focal length, twice the centre."""
    camera = load_rig(write(tmp_path, with_front(calibrated_size=[800, 450]))).cameras["front"]
    np.testing.assert_array_equal(camera.matrix((1600, 900)), [[1000, 0, 800], [0, 1000, 450], [0, 0, 1]])


@pytest.mark.parametrize(
    ("rig", "words"),
    [
        ([1, 2], ("expected `cameras:",)),
        ({"cameras": {}}, ("cameras", "at least 1")),
        ({"cameras": {str(n): FRONT for n in range(65)}}, ("cameras", "at most 64")),
        (with_front(photo=None), ("cameras.front.photo",)),
        (with_front(lens="fisheye"), ("unknown field 'cameras.front.lens'",)),
        (with_front(intrinsics=[[500, 0], [0, 500]]), ("cameras.front.intrinsics", "expected 3 rows of 3 numbers")),
        (with_front(intrinsics=[[500, 0, 400], [3, 500, 225], [0, 0, 1]]), ("camera 'front'", "below the diagonal")),
        (with_front(intrinsics=[[0.5, 0, 0.4], [0, 0.5, 0.2], [0, 0, 1]]), ("camera 'front'", "focal lengths")),
        (with_front(ego_from_camera=np.diag([2.0, 1, 1, 1]).tolist()), ("camera 'front'", "no rotation")),
        (with_front(ego_from_camera=np.diag([-1.0, 1, 1, 1]).tolist()), ("camera 'front'", "mirror")),
        (with_front(ego_from_camera=MATRIX[:3]), ("ego_from_camera", "expected 4 rows of 4 numbers")),
        (
            with_front(ego_from_camera={"rotation_wxyz": [1, 1, 0, 0], "translation_m": [0, 0, 0]}),
            ("no rotation", "length 1.41"),
        ),
        (
            with_front(ego_from_camera={"rotation_wxyz": [1, 0, 0, 0], "translation_m": [0, 2000, 0]}),
            ("camera 'front'", "2000 m away"),
        ),
        (with_front(calibrated_size=[0, 450]), ("calibrated_size", "no (width, height)")),
        (
            {"image": SMALL, "cameras": {"a": {**FRONT, "image": HIGHER}, "b": FRONT}},
            ("different sizes", "(32, 64)", "(48, 64)"),
        ),
        ({**with_front(), "image": {"resize": None, "crop": [0, 0, 8, 8]}}, ("too small",)),
        ({**with_front(), "image": {**SMALL, "decode": "reduced"}}, ("image.decode", "in full")),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rig: Any, words: tuple[str, ...]) -> None:
    path = write(tmp_path, rig)
    with pytest.raises(ConfigError) as raised:
        load_rig(path)
    assert all(word in str(raised.value) for word in (str(path), *words)), raised.value


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        load_rig(tmp_path / "rig.yaml")
    (tmp_path / "broken.yaml").write_text("cameras: [")
    with pytest.raises(ConfigError, match="no valid YAML"):
        load_rig(tmp_path / "broken.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_rig(tmp_path / "large.yaml")


def test_photos_must_fit_the_calibration(tmp_path: Path) -> None:
    camera = load_rig(write(tmp_path, with_front(calibrated_size=[800, 450]))).cameras["front"]
    check_photo(Source("front"), camera, (1600, 900))
    with pytest.raises(DataError, match="another shape"):
        check_photo(Source("front"), camera, (1600, 1200))
    plain = load_rig(write(tmp_path, with_front())).cameras["front"]
    check_photo(Source("front"), plain, (800, 450))
    with pytest.raises(DataError, match=r"centre at \(400, 225\), outside of the photo of 320x180"):
        check_photo(Source("front"), plain, (320, 180))


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((800, 450), (64, 36), (0, 4, 64, 32)),  # 0.08: 36 rows, 4 of sky go
        ((400, 100), (128, 32), (32, 0, 64, 32)),  # 0.32: 128 columns, 32 go at each side
        ((64, 32), (64, 32), (0, 0, 64, 32)),
        ((10, 10), (64, 64), (0, 32, 64, 32)),
    ],
)
def test_a_photo_fills_the_image(
    size: tuple[int, int], resize: tuple[int, int], crop: tuple[int, int, int, int]
) -> None:
    spec = fill_shape(size, (32, 64))
    assert (spec.resize, spec.crop) == (resize, crop)
