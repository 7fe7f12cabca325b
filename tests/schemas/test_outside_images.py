"""Headers of images of strangers."""

from __future__ import annotations

import pytest

from schemas.errors import DataError
from schemas.outside import Source, image_size
from schemas.outside.limits import SCANS

FRAME = b"\xff\xd8\xff\xc2\x00\x11\x08\x00\x10\x00\x20\x03" + bytes(9)
"""A progressive JPEG of 16 x 32 pixels and three channels, up to its scans."""


@pytest.mark.parametrize("between", [b"", b"\xff", b"\xda", b"\xda\xff\x00"])
def test_scans_are_counted(between: bytes) -> None:
    scan = between + b"\xff\xda"
    header = image_size(Source("one.jpg"), FRAME + SCANS * scan + b"\xff\xd9")
    assert (header.height, header.width, header.channels) == (16, 32, 3)
    with pytest.raises(DataError, match="more than 64 scans"):
        image_size(Source("one.jpg"), FRAME + (SCANS + 1) * scan + b"\xff\xd9")
