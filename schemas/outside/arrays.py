"""Arrays from outside: npz and npy, checked by their headers before anything is inflated; no pickle, ever.

Intel's ISA-L inflates in half the time of zlib, and is most of what reading labels takes.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Collection
from typing import Final, cast

import numpy as np
from isal import isal_zlib

from schemas.outside.limits import NPY_AXES, NPY_HEADER_BYTES
from schemas.outside.source import Source, shorten

_NPY_MAGIC: Final = b"\x93NUMPY"
_NPY_HEADER: Final = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>|=]?[biuf][1248])',\s*'fortran_order':\s*(True|False),\s*"
    rb"'shape':\s*\(([0-9L, ]{0,160})\),?\s*\}\s*"
)
_ZIP_ENTRY: Final = struct.Struct("<4s5H3L2H")
_ZIP_MAGIC: Final = b"PK\x03\x04"
_ENCRYPTED: Final = 0x1
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
    EOFError,
    struct.error,
)
_INFLATE_ERROR: Final = cast(type[Exception], isal_zlib.error)
"""Its stubs say that it is an instance."""


def read_npz(source: Source, data: bytes, names: Collection[str], largest: int) -> dict[str, np.ndarray]:
    """Some arrays of an npz file.

    Args:
        source: for messages.
        data: the file.
        names: arrays that are wanted; others are not looked at.
        largest: bytes that one array may have.

    Returns:
        Those arrays that are there, by name, in the order of ``names``; they are read-only.

    Raises:
        DataError: no zip, a member twice, encrypted, of another compression than deflate, larger than ``largest``,
            damaged, or no array of plain numbers.
    """
    entries = zip_entries(source, data)
    arrays = {}
    for name in names:
        if (entry := entries.get(f"{name}.npy")) is not None:
            inner = Source(f"{source.where}, '{name}'", source.remedy)
            arrays[name] = read_npy(inner, _inflate(inner, data, entry, largest + NPY_HEADER_BYTES), largest)
    return arrays


def zip_entries(source: Source, data: bytes) -> dict[str, zipfile.ZipInfo]:
    """Members of a zip archive by name.

    Raises:
        DataError: no zip, or a name twice.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except _ZIP_ERRORS as error:
        raise source.damaged(error) from error
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        name = Counter(entry.filename for entry in entries).most_common(1)[0][0]
        raise source.damaged(f"member {shorten(name)} is there twice")
    return by_name


def read_npy(source: Source, data: bytes, largest: int) -> np.ndarray:
    """An npy file of plain numbers, as a read-only view of its bytes.

    Args:
        source: for messages.
        data: the file.
        largest: bytes that the array may have.

    Raises:
        DataError: another header than that of plain numbers (bool, whole, floating), or more or fewer bytes than it
            declares.
    """
    start, size = _npy_header_place(source, data)
    found = _NPY_HEADER.fullmatch(data[start : start + size])
    if found is None:
        raise source.damaged(
            f"the header {shorten(data[start : start + size].strip())} is none of an array of plain numbers (objects "
            "and structures are refused)"
        )
    numbers = found[3].decode().replace("L", "").replace(" ", "").rstrip(",")
    try:
        dtype, shape = np.dtype(found[1].decode()), tuple(map(int, numbers.split(","))) if numbers else ()
    except (TypeError, ValueError) as error:
        raise source.damaged(f"the header {shorten(found[0])} is none of an array: {error}") from error
    declared, held = math.prod(shape) * dtype.itemsize, len(data) - start - size
    if len(shape) > NPY_AXES or max(declared, *shape, 0) > largest:
        raise source.error(f"the header declares {shorten(shape)} of {dtype}, at most {largest:,} bytes are expected")
    if declared != held:
        raise source.damaged(f"the header declares {shape} of {dtype}, {held} bytes follow")
    flat = np.frombuffer(data, dtype, offset=start + size)
    return flat.reshape(shape, order="F" if found[2] == b"True" else "C")


def _npy_header_place(source: Source, data: bytes) -> tuple[int, int]:
    """First byte and length of the text of an npy header."""
    version = data[6:8]
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(version, 0)
    if not data.startswith(_NPY_MAGIC) or width == 0 or len(data) < 8 + width:
        raise source.damaged("no npy array")
    size = int.from_bytes(data[8 : 8 + width], "little")
    if size > min(NPY_HEADER_BYTES, len(data) - 8 - width):
        raise source.damaged(f"a header of {size:,} bytes, at most {NPY_HEADER_BYTES:,} are allowed")
    return 8 + width, size


def _inflate(source: Source, data: bytes, entry: zipfile.ZipInfo, largest: int) -> bytes:
    """Content of one member; not more than it declares is ever made."""
    if entry.flag_bits & _ENCRYPTED:
        raise source.error("is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise source.error(f"has compression {entry.compress_type}; expected deflate or none, as numpy writes them")
    if entry.file_size > largest:
        raise source.error(f"declares {entry.file_size:,} bytes, at most {largest:,} are expected")
    content = memoryview(data)[slice(*_content_place(source, data, entry))]
    try:
        if entry.compress_type == zipfile.ZIP_STORED:
            inflated = bytes(content)
        else:
            inflated = isal_zlib.decompressobj(-isal_zlib.MAX_WBITS).decompress(content, entry.file_size + 1)
    except _INFLATE_ERROR as error:
        raise source.damaged(error) from error
    if len(inflated) != entry.file_size or isal_zlib.crc32(inflated) != entry.CRC:
        raise source.damaged("content and checksum of the archive differ")
    return inflated


def _content_place(source: Source, data: bytes, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte of a member's content and the byte after it, as its own header says; it must agree with the list."""
    place = entry.header_offset
    header = data[place : place + _ZIP_ENTRY.size] if place >= 0 else b""
    if len(header) < _ZIP_ENTRY.size or not header.startswith(_ZIP_MAGIC):
        raise source.damaged("the list of members points beside the member")
    *_, name_size, extra_size = _ZIP_ENTRY.unpack(header)
    start = place + _ZIP_ENTRY.size + name_size + extra_size
    name = data[place + _ZIP_ENTRY.size : place + _ZIP_ENTRY.size + name_size]
    if name != entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace"):
        raise source.damaged(f"the list of members points to {shorten(name)}")
    if start + entry.compress_size > len(data):
        raise source.damaged("it ends beyond the file")
    return start, start + entry.compress_size
