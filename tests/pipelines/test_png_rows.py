"""Windows of PNG files: all five filters by hand, pieces that split lines, damage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.occupancy import png_rows
from pipelines.occupancy.ground import read_map_mask
from pipelines.occupancy.png_rows import PngError, grey_png_size, read_png_rows
from schemas.errors import DataError


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(lines: list[bytes], width: int, *, parts: int = 1, bits: int = 8) -> bytes:
    """A PNG of filtered lines (first byte: filter type), its pixels in several IDAT chunks."""
    packed = zlib.compress(b"".join(lines))
    step = -(-len(packed) // parts)
    header = struct.pack(">IIBBBBB", width, len(lines), bits, 0, 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"a\0b") + pixels + chunk(b"IEND", b"")


FILTERED = [
    bytes([0, 10, 20, 30]),
    bytes([1, 5, 1, 1]),  # left: 5, 6, 7
    bytes([2, 1, 1, 251]),  # up: 6, 7, 7 + 251 = 258 = 2
    bytes([3, 1, 1, 1]),  # mean of left and up: 1 + 3 = 4, 1 + (4 + 7) // 2 = 6, 1 + (6 + 2) // 2 = 5
    # Paeth: left 0, up 4, corner 0 -> up: 1 + 4 = 5; left 5, up 6, corner 4: 7 is nearest to 6: 1 + 6 = 7;
    # left 7, up 5, corner 6: 6 is the corner itself: 1 + 6 = 7
    bytes([4, 1, 1, 1]),
]
PIXELS = np.array([[10, 20, 30], [5, 6, 7], [6, 7, 2], [4, 6, 5], [5, 7, 7]], np.uint8)


def test_all_filters_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(FILTERED, 3, parts=3))
    assert grey_png_size(path) == (3, 5)
    assert np.array_equal(read_png_rows(path, (0, 5), (0, 3)), PIXELS)
    assert np.array_equal(read_png_rows(path, (2, 4), (1, 3)), PIXELS[2:4, 1:3])
    assert np.array_equal(np.asarray(Image.open(path)), PIXELS)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_pieces_may_split_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    image = np.random.default_rng(0).integers(0, 3, (40, 30), dtype=np.uint8).cumsum(axis=0).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    monkeypatch.setattr(png_rows, "_PIECE_BYTES", piece_bytes)
    assert np.array_equal(read_png_rows(path, (11, 33), (4, 29)), image[11:33, 4:29])


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    whole = png(FILTERED, 3)
    for data, words in [
        (whole[:-30], "cut short"),
        (whole[:-25] + b"\0" + whole[-24:], "damaged b'IDAT' chunk"),
        (
            png(FILTERED[:3], 3).replace(struct.pack(">I", 3), struct.pack(">I", 3), 1),
            "ends after 3 rows, 5 are needed",
        ),
        (png([bytes([5, 0, 0, 0])] * 5, 3), "unknown filter type"),
    ]:
        path.write_bytes(data)
        with pytest.raises(PngError, match=words):
            read_png_rows(path, (0, 5), (0, 3))
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"a.png: map mask is missing or no whole image \(is cut short\)"):
        read_map_mask(path, np.zeros((1, 3)), np.zeros(3))


def test_other_kinds_of_images_are_read_whole(tmp_path: Path) -> None:
    """A black and white PNG of one bit: the mask is the same."""
    image = np.zeros((50, 40), np.uint8)
    image[30:, :20] = 255
    for name, picture in (("grey.png", Image.fromarray(image)), ("bits.png", Image.fromarray(image).convert("1"))):
        picture.save(tmp_path / name)
    assert grey_png_size(tmp_path / "bits.png") is None
    masks = [read_map_mask(tmp_path / name, np.zeros((1, 3)), np.zeros(3)) for name in ("grey.png", "bits.png")]
    points = np.array([[0.55, 0.45, 0.0], [0.55, 2.45, 0.0], [2.55, 0.45, 0.0]])
    assert [mask.holds(points).tolist() for mask in masks] == [[True, False, False]] * 2
