"""Camera files as people have them: padded, cut with the end kept, grey, with alpha, rotated by a note, PNG as jpg."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.images import read_image
from pipelines.masks import GENERATORS, SamConfig, generators_of
from pipelines.prepare.sensor_files import check_files
from schemas.errors import DataError
from schemas.images import ImageSpec
from tests.schemas.test_records import record

COLORS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
"""(120, 160, 3) BGR."""


def jpeg(image: np.ndarray = COLORS) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def with_pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    return with_pillow(Image.fromarray(COLORS[..., ::-1]), "JPEG", exif=exif)


def with_thumbnail() -> bytes:
    """A whole JPEG inside a note at the start."""
    note = b"Exif\0\0" + jpeg(COLORS[:16, :16])
    data = jpeg()
    return data[:2] + b"\xff\xe1" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]


WHOLE = {
    "plain": jpeg(),
    "padded": jpeg() + b"\0" * 5000,
    "padded with markers": jpeg() + b"\xff\xd9\xff\xd9 tail",
    "grey": jpeg(COLORS[..., 0]),
    "grey as decoders fill": jpeg(np.full((120, 160, 3), 128, np.uint8)),
    "grey at the end": jpeg(np.where(np.arange(120)[:, None, None] < 64, COLORS, 128)),
    "progressive": with_pillow(Image.fromarray(COLORS), "JPEG", progressive=True),
    "png": cv2.imencode(".png", COLORS)[1].tobytes(),
    "png of 16 bits": cv2.imencode(".png", COLORS.astype(np.uint16) * 257)[1].tobytes(),
    "png with alpha": cv2.imencode(".png", np.dstack([COLORS, COLORS[..., :1]]))[1].tobytes(),
    "png, padded": cv2.imencode(".png", COLORS)[1].tobytes() + b"\0" * 9,
    "rotated by a note": rotated(),
    "with a thumbnail": with_thumbnail(),
}
BROKEN = {
    "cut": jpeg()[:-50],
    "cut with its end kept": jpeg()[: len(jpeg()) // 2] + b"\xff\xd9",
    "last rows cut, end kept": jpeg()[:-60] + b"\xff\xd9",
    "thumbnail whole, image cut": with_thumbnail()[:-400],
    "webp": with_pillow(Image.fromarray(COLORS), "WEBP"),
    "text": b"no image",
    "empty": b"",
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_images_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(WHOLE[name])
    assert read_image(path, "t").shape == (120, 160, 3)
    check_files(tmp_path, one_camera(path.name))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=r"sample t: image .*image.jpg"):
        read_image(path, "t")


@pytest.mark.parametrize("name", ["cut", "thumbnail whole, image cut", "webp", "text", "empty"])
def test_prepare_sees_it_without_decoding(name: str, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=r"sample a: .*image.jpg.*(truncated|no readable image|WEBP file)"):
        check_files(tmp_path, one_camera("image.jpg"))


def one_camera(path: str) -> object:
    sample = record("a")
    camera = sample.cameras["c"].model_copy(update={"path": path, "width": 160, "height": 120})
    return sample.model_copy(update={"cameras": {"c": camera}})


def a_folder(path: Path) -> None:
    path.mkdir()


def a_name_too_long(path: Path) -> None:
    """`image.jpg` is not there, and a longer name than file systems allow is asked for."""


@pytest.mark.parametrize(("make", "name"), [(a_folder, "image.jpg"), (a_name_too_long, "x" * 300)])
def test_what_is_no_file(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    make(tmp_path / "image.jpg")
    with pytest.raises(DataError, match="sample t: image .*cannot be read"):
        read_image(tmp_path / name, "t")
    with pytest.raises(DataError, match="sample a: .*(no file|cannot be read)"):
        check_files(tmp_path, one_camera(name))


class Sized:
    """A generator that only knows its size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def generate(self, images: object) -> list[object]:
        raise NotImplementedError


def test_masks_of_a_camera_have_its_own_scale(world_dataset: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """One generator per size, so that a camera with a resize of its own gets masks at that scale."""
    kind = replace(GENERATORS["sam"], build=lambda config, size: Sized(size))
    monkeypatch.setattr("pipelines.masks.GENERATORS", {"sam": kind})
    image = ImageSpec(resize=(200, 160), crop=(0, 32, 200, 104))
    dataset = world_dataset.model_copy(update={"camera_images": {"CAM_BACK": image}})  # type: ignore[attr-defined]
    others = [channel for channel in dataset.cameras if channel != "CAM_BACK"]
    found = {generator.size: channels for generator, channels in generators_of(dataset, SamConfig()).items()}
    assert found == {(200, 160): ["CAM_BACK"], (200, 112): others}
