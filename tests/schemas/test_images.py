from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from schemas.images import ImageSpec
from schemas.network_images import decode_photo, resize_and_crop
from schemas.outside import Source, image_size

FULL = ImageSpec(resize=(80, 45), crop=(0, 5, 80, 40))
REDUCED = ImageSpec(resize=(80, 45), crop=(0, 5, 80, 40), decode="reduced")


def photo(kind: str) -> bytes:
    """Smooth hills of 640 x 360 pixels."""
    v, u = np.mgrid[:360, :640]
    hills = [128 + 100 * np.sin(u / 23 + n) * np.cos(v / 17) for n in range(3)]
    stored = io.BytesIO()
    Image.fromarray(np.stack(hills, -1).astype(np.uint8)).save(stored, kind, quality=95)
    return stored.getvalue()


def decoded(data: bytes, spec: ImageSpec) -> np.ndarray:
    image = decode_photo(data, image_size(Source("photo"), data), spec)
    assert image is not None
    return image


@pytest.mark.parametrize(
    ("size", "factor"),
    [((400, 225), 1), ((400, 224), 4), ((160, 88), 1), ((1600, 896), 8), ((320, 180), 4), ((160, 92), 2)],
)
def test_scale_of_the_decoder(size: tuple[int, int], factor: int) -> None:
    """It divides both sides, so that pixels stay where they are, and leaves at least 80 x 45."""
    assert REDUCED.reduction(size) == factor
    assert FULL.reduction(size) == 1
    assert ImageSpec(resize=None, crop=(0, 0, 80, 40), decode="reduced").reduction(size) == 1


def test_reduced_images_show_the_same_at_the_same_place() -> None:
    """Half a level apart on average, and ten times as far from the image one pixel beside."""
    data = photo("JPEG")
    assert decoded(data, REDUCED).shape == (45, 80, 3)
    assert decoded(data, FULL).shape == (360, 640, 3)
    quick, whole = (resize_and_crop(decoded(data, spec), spec).astype(float) for spec in (REDUCED, FULL))
    assert quick.shape == (40, 80, 3)
    apart = np.abs(quick - whole).mean()
    assert 0 < apart < 0.5
    for axis in (0, 1):
        assert np.abs(np.roll(quick, 1, axis) - whole).mean() > 10 * apart


def test_png_files_are_decoded_in_full() -> None:
    assert decoded(photo("PNG"), REDUCED).shape == (360, 640, 3)


def test_orientation_of_the_file_is_ignored() -> None:
    stored, note = io.BytesIO(), Image.Exif()
    note[0x0112] = 6
    Image.open(io.BytesIO(photo("JPEG"))).save(stored, "JPEG", exif=note, quality=95)
    assert decoded(stored.getvalue(), REDUCED).shape == (45, 80, 3)


def test_plans_of_before_stay_as_they_were() -> None:
    assert FULL.model_dump() == {"resize": (80, 45), "crop": (0, 5, 80, 40)}
    assert REDUCED.model_dump()["decode"] == "reduced"
