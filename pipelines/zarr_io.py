"""Zarr stores as `schemas.store` defines them: a task writes whole chunks, so tasks never share a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numcodecs import blosc, zstd
from zarr.codecs import BloscCodec, BloscShuffle, ZstdCodec
from zarr.storage import MemoryStore

from pipelines.files import sha256_of
from pipelines.manifests import command_of, read_manifest, read_marker
from pipelines.unit_files import lost_files, piece_digest, read_checksums
from pipelines.units import Layout, Piece, Unit
from schemas.errors import DataError, disk_errors
from schemas.files import PARTIAL
from schemas.outside import Source, parse_json, read_bytes, shorten
from schemas.outside.limits import CAMERA_PIXELS, GRID_VOXELS, META_BYTES
from schemas.store import FORMAT_VERSION, STORES, ArraySpec
from schemas.workfolder import CHECKSUMS, UNITS

_LEVEL: Final = 3
"""Of compression."""
_CHUNK_BYTES: Final = 8 * max(GRID_VOXELS, CAMERA_PIXELS)
_DECOMPRESS: Final[Mapping[str, Callable[[bytes, np.ndarray], object]]] = {
    "zstd": zstd.decompress,
    "blosc": blosc.decompress,
}


def create_store(path: Path, kind: str, sizes: Mapping[str, int]) -> None:
    """Makes the empty arrays of a store.

    Args:
        path: folder of the store.
        kind: `geometry`, `occupancy` or `masks`.
        sizes: length of each axis letter, e.g. ``{"N": 42, "V": 6, "H": 432, "W": 800}``.
    """
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(path, mode="a", zarr_format=3)
        group.attrs["format_version"] = FORMAT_VERSION
        for spec in STORES[kind]:
            _create_array(group, spec, sizes)


def _create_array(group: zarr.Group, spec: ArraySpec, sizes: Mapping[str, int]) -> zarr.Array[Any]:
    shape = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in spec.axes.split())
    codec: Any = (
        ZstdCodec(level=_LEVEL)
        if spec.codec == "zstd"
        else BloscCodec(cname="zstd", clevel=_LEVEL, shuffle=BloscShuffle.shuffle)
    )
    return group.create_array(
        spec.name,
        shape=shape,
        dtype=spec.dtype,
        chunks=(spec.chunk, *shape[1:]),
        compressors=codec,
        fill_value=spec.fill,
        attributes={"axes": spec.axes, "unit": spec.unit, "meaning": spec.meaning},
        overwrite=True,
    )


def write_record(path: Path, index: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one record's row of each array: (index, ...) = array.

    Raises:
        DataError: the disk is full, or an array has the wrong shape or dtype for the store.
    """
    write_records(path, index, {name: values[None] for name, values in arrays.items()})


def write_records(path: Path, start: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the rows of records that stand in a row: (start, ...) = array[0], (start + 1, ...) = array[1], ...

    Whole chunks are written without zarr: the same bytes in a third of its time. Of a chunk that rows begin or end
    within, zarr keeps the others.

    Raises:
        DataError: the disk is full, or an array has the wrong shape or dtype for the store.
    """
    specs = {spec.name: spec for kind in STORES.values() for spec in kind}
    for name, values in arrays.items():
        file = path / name / "zarr.json"
        source = Source(str(file), "Run its stage with --overwrite.")
        shape = parse_json(source, read_bytes(source, file, META_BYTES), META_BYTES)["shape"]
        spec = specs[name]
        if shape[1:] != list(values.shape[1:]) or values.dtype != spec.dtype:
            raise DataError(f"{path}: '{name}' got {values.dtype} {values.shape}, the store has another shape")
        stop = start + len(values)
        if start % spec.chunk or (stop % spec.chunk and stop != shape[0]) or stop > shape[0]:
            _write_parts(path, name, start, values)
            continue
        for first in range(0, len(values), spec.chunk):
            _write_chunk(path, spec, (start + first) // spec.chunk, values[first : first + spec.chunk])


def _write_parts(path: Path, name: str, start: int, values: np.ndarray) -> None:
    with disk_errors(path):
        array: Any = zarr.open_group(path, mode="r+", zarr_format=3)[name]
        array[start : start + len(values)] = values


def _write_chunk(path: Path, spec: ArraySpec, number: int, rows: np.ndarray) -> None:
    """Writes one chunk, or removes its file where all values are the fill value; rows that are missing are fill."""
    file = path / _chunk_path(spec, number)
    chunk = np.full((spec.chunk, *rows.shape[1:]), spec.fill, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    chunk[: len(rows)] = rows
    with disk_errors(path):
        if np.array_equal(chunk, np.full_like(chunk, spec.fill), equal_nan=spec.dtype == "float64"):
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_name(file.name + PARTIAL)
        try:
            partial_file.write_bytes(_encode(spec, chunk))
            partial_file.replace(file)
        finally:
            partial_file.unlink(missing_ok=True)


def _encode(spec: ArraySpec, chunk: np.ndarray) -> bytes:
    """Bytes of a chunk, as the codec in `create_store` makes them."""
    if spec.codec == "zstd":
        encoded: bytes = zstd.compress(chunk, level=_LEVEL)
    else:
        encoded = blosc.compress(chunk, b"zstd", _LEVEL, blosc.SHUFFLE, blocksize=0, typesize=chunk.itemsize)
    return encoded


def open_store(path: Path, kind: str) -> dict[str, zarr.Array[Any]]:
    """Arrays of a finished store, by name, as they are: what reads rows to use them takes `StoreRows` instead.

    Args:
        path: folder of the store.
        kind: `geometry`, `occupancy` or `masks`.

    Raises:
        DataError: the stage has not finished, or an array is missing.
    """
    read_manifest(path)
    return _open_arrays(path, kind)


def _open_arrays(path: Path, kind: str) -> dict[str, zarr.Array[Any]]:
    return {spec.name: _open_array(path, spec) for spec in STORES[kind]}


def _open_array(path: Path, spec: ArraySpec) -> zarr.Array[Any]:
    """An array of a store, which must be stored as `create_store` does; only its size is its own."""
    file = path / spec.name / "zarr.json"
    if not file.is_file():
        raise DataError(f"{path} lacks the array {spec.name} ({file}); run its stage with --overwrite")
    source = Source(str(file), "Run its stage with --overwrite.")
    values = parse_json(source, read_bytes(source, file, META_BYTES), META_BYTES)
    try:
        sizes = dict(zip(spec.axes.split(), map(int, values["shape"]), strict=True))
        expected = _stored(_create_array(zarr.create_group(MemoryStore()), spec, sizes))
        is_ours = all(values.get(name) == expected[name] for name in expected)
        if not is_ours or math.prod(values["shape"][1:]) > max(GRID_VOXELS, CAMERA_PIXELS):
            raise source.error(f"describes another array than '{spec.name}' ({spec.axes}, {spec.dtype})")
        return zarr.open_array(path / spec.name, mode="r", zarr_format=3)
    except (AttributeError, LookupError, OSError, OverflowError, TypeError, ValueError) as error:
        raise source.error(f"describes no array that can be read: {shorten(str(error))}") from error


def _stored(array: zarr.Array[Any]) -> dict[str, Any]:
    """What the file that describes an array says, but for its attributes."""
    values: dict[str, Any] = json.loads(json.dumps(array.metadata.to_dict()))
    return {name: value for name, value in values.items() if name != "attributes"}


def store_layout(kind: str) -> Layout:
    """Files of a store, for its stage."""
    names = [spec.name for spec in STORES[kind]]
    created = ("zarr.json", *(f"{name}/zarr.json" for name in names))
    patterns = (*created, *(f"{name}/c/*" for name in names))
    return Layout(patterns, partial(_row_pieces, kind), created, has_rows=True)


def _row_pieces(kind: str, unit: Unit) -> list[Piece]:
    return [row_piece(kind, entry.row, entry.token) for entry in unit.entries]


def row_piece(kind: str, row: int, token: str) -> Piece:
    """Chunk files of one row, one of each array; a chunk that is all fill value has none."""
    return Piece(token, tuple(_chunk_path(spec, row // spec.chunk) for spec in STORES[kind]))


def _chunk_path(spec: ArraySpec, number: int) -> str:
    """File of a chunk, below the folder of the store: chunks are whole along all axes but N."""
    inner = "/0" * (len(spec.axes.split()) - 1)
    return f"{spec.name}/c/{number}{inner}"


def _chunk_bytes(path: Path) -> bytes | None:
    """Contents of a chunk's file; None where there is none or it is larger than any chunk can be."""
    try:
        return path.read_bytes() if path.stat().st_size <= _CHUNK_BYTES else None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _decode(spec: ArraySpec, array: zarr.Array[Any], data: bytes | None, row: int) -> np.ndarray:
    """One row of an array from the bytes of its chunk; zarr's own way takes several times as long.

    Raises:
        RuntimeError, ValueError: the bytes are no chunk of this array.
    """
    if data is None:
        return np.full(array.shape[1:], array.fill_value, array.dtype)
    chunk = np.zeros(array.chunks, array.dtype.newbyteorder("<"))
    _DECOMPRESS[spec.codec](data, chunk)
    return chunk[row % array.chunks[0]].astype(array.dtype, copy=False)


class StoreRows:
    """Rows of a finished store, each checked against its checksum before its values are used.

    A chunk that is gone would otherwise read as fill values, and a store of other records as labels of other samples.

    Args:
        path: folder of the store.
        kind: `geometry`, `occupancy` or `masks`.

    Raises:
        DataError: the stage has not finished, or the store's own files are damaged.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        manifest = read_manifest(path)
        self._command = f"`{command_of(path, manifest)}`"
        for name in (CHECKSUMS, "zarr.json", *(f"{spec.name}/zarr.json" for spec in STORES[kind])):
            if not (path / name).is_file() or sha256_of([path / name]) != manifest.files.get(name):
                raise DataError(f"{path / name} is gone or damaged. Run {self._command} with --overwrite.")
        self._checksums = read_checksums(path)
        self._arrays = _open_arrays(path, kind)

    def read(self, row: int, token: str) -> dict[str, np.ndarray]:
        """Arrays of one row, by name.

        Args:
            row: number of the record.
            token: of the sample that the row must belong to.

        Raises:
            DataError: a chunk is gone or damaged, or the row was made for another sample; names the unit to make again.
        """
        piece = row_piece(self.kind, row, token)
        if row >= len(self._checksums):
            raise DataError(f"{self.path} has {len(self._checksums)} rows, none for sample {token} (row {row})")
        chunks = {path: _chunk_bytes(self.path / path) for path in piece.paths}
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in chunks.items() if data is not None}
        if piece_digest(piece, hashes) != self._checksums[row].tobytes():
            raise DataError(self._what_is_wrong(piece))
        try:
            arrays = zip(STORES[self.kind], self._arrays.values(), chunks.values(), strict=True)
            return {spec.name: _decode(spec, array, data, row) for spec, array, data in arrays}
        except (IndexError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.path}, row {row}: cannot be decoded ({shorten(str(error))})") from error

    def _what_is_wrong(self, piece: Piece) -> str:
        """Message for a row whose checksum fails: which file, which unit, how to make it again."""
        for path in sorted((self.path / UNITS).glob("*.json")):
            marker = read_marker(self.path, path.stem)
            written = (
                {} if marker is None else {name: marker.wrote[name] for name in piece.paths if name in marker.wrote}
            )
            lost = lost_files(self.path, written, deep=True)
            if lost:
                return (
                    f"sample {piece.name}: {self.path / lost[0]} is gone or damaged. Remove {path} and run "
                    f"{self._command} to make unit {path.stem} again."
                )
        return (
            f"sample {piece.name}: its row of {self.path} was made for another sample or holds a chunk that was never "
            f"written. Run {self._command} with --overwrite."
        )
