"""Some rows of a large PNG: the file is decoded from the top in pieces, so memory holds what is asked for only."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, no_type_check

import numpy as np
from jaxtyping import UInt8
from numba import njit

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">IIBBBBB")
_PIECE_BYTES: Final = 1 << 24


class PngError(ValueError):
    """The file is cut short or damaged, or is no 8-bit grey PNG without interlacing."""


def grey_png_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels; None where the file is something else than `read_png_rows` reads."""
    try:
        with path.open("rb") as file:
            return _read_size(file)
    except PngError:
        return None


def read_png_rows(path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Grey values of a window.

    Args:
        path: 8-bit grey PNG without interlacing.
        rows: first row and the one after the last, from the top.
        columns: first column and the one after the last.

    Raises:
        PngError: the file is cut short or damaged, or of another kind.

    Source: PNG specification (ISO/IEC 15948), chunks and filter types 0 to 4.
    """
    (first, stop), (left, right) = rows, columns
    window = np.zeros((max(stop - first, 0), max(right - left, 0)), dtype=np.uint8)
    with path.open("rb") as file:
        width, _ = _read_size(file)
        above, top, rest = np.zeros(width, dtype=np.uint8), 0, b""
        pieces = _pixel_stream(file)
        while top < stop:
            try:
                data = rest + next(pieces)
            except StopIteration:
                raise PngError(f"ends after {top} rows, {stop} are needed") from None
            count = min(len(data) // (width + 1), stop - top)
            rest = data[count * (width + 1) :]
            lines = np.frombuffer(data, np.uint8, count * (width + 1)).reshape(count, width + 1).copy()
            if not _unfilter(lines, above):
                raise PngError(f"has an unknown filter type below row {top}")
            low, high = max(first, top), top + count
            window[max(low - first, 0) : max(high - first, 0)] = lines[low - top :, 1 + left : 1 + right]
            top = high
    return window


def _read_size(file: BinaryIO) -> tuple[int, int]:
    if file.read(8) != _SIGNATURE:
        raise PngError("does not begin like a PNG")
    name, data = _read_chunk(file)
    if name != b"IHDR" or len(data) != _HEADER.size:
        raise PngError("has no header")
    width, height, bits, colour, compression, filters, interlace = _HEADER.unpack(data)
    if (bits, colour, compression, filters, interlace) != (8, 0, 0, 0, 0) or not width or not height:
        raise PngError("is not 8-bit grey without interlacing")
    return width, height


def _read_chunk(file: BinaryIO) -> tuple[bytes, bytes]:
    head = file.read(8)
    if len(head) < 8:
        raise PngError("is cut short")
    (length,), name = struct.unpack(">I", head[:4]), head[4:]
    data, check = file.read(length), file.read(4)
    if len(data) < length or len(check) < 4:
        raise PngError("is cut short")
    if zlib.crc32(name + data) != int.from_bytes(check, "big"):
        raise PngError(f"has a damaged {name!r} chunk")
    return name, data


def _pixel_stream(file: BinaryIO) -> Iterator[bytes]:
    """Unpacked bytes of all IDAT chunks, in pieces of bounded size."""
    unpack = zlib.decompressobj()
    while True:
        name, data = _read_chunk(file)
        if name == b"IEND":
            return
        while name == b"IDAT" and data:
            try:
                piece = unpack.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise PngError(f"has damaged pixels ({error})") from error
            data = unpack.unconsumed_tail
            if piece:
                yield piece


@njit(cache=True, nogil=True)
@no_type_check
def _unfilter(lines, above):
    """Undoes the filters of lines (first byte: its type) below the line ``above``, which becomes the last one."""
    for row in range(len(lines)):
        kind = lines[row, 0]
        if kind > 4:
            return False
        left, corner = np.int64(0), np.int64(0)
        for column in range(len(above)):
            value, up = np.int64(lines[row, column + 1]), np.int64(above[column])
            if kind == 1:
                value += left
            elif kind == 2:
                value += up
            elif kind == 3:
                value += (left + up) // 2
            elif kind == 4:
                to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                if to_left <= to_up and to_left <= to_corner:
                    value += left
                else:
                    value += up if to_up <= to_corner else corner
            left, corner = value & 255, up
            lines[row, column + 1] = left
            above[column] = left
    return True
