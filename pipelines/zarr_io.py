"""Zarr stores as `schemas.store` defines them: a task writes whole chunks, so tasks never share a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, ZstdCodec

from pipelines.stage import read_manifest
from schemas.errors import DataError, disk_errors
from schemas.store import FORMAT_VERSION, STORES, ArraySpec


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


def _create_array(group: zarr.Group, spec: ArraySpec, sizes: Mapping[str, int]) -> None:
    shape = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in spec.axes.split())
    codec: Any = (
        ZstdCodec(level=3) if spec.codec == "zstd" else BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.shuffle)
    )
    group.create_array(
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

    Raises:
        DataError: the disk is full, or an array has the wrong shape or dtype for the store.
    """
    with disk_errors(path):
        group = zarr.open_group(path, mode="r+", zarr_format=3)
        for name, values in arrays.items():
            target = group[name]
            if (
                not isinstance(target, zarr.Array)
                or target.shape[1:] != values.shape[1:]
                or target.dtype != values.dtype
            ):
                raise DataError(f"{path}: '{name}' got {values.dtype} {values.shape}, the store has another shape")
            target[start : start + len(values)] = values


def open_store(path: Path, kind: str) -> dict[str, zarr.Array[Any]]:
    """Arrays of a finished store, by name, for reading.

    Args:
        path: folder of the store.
        kind: `geometry`, `occupancy` or `masks`.

    Raises:
        DataError: the stage has not finished, or an array is missing.
    """
    read_manifest(path)
    try:
        return {spec.name: zarr.open_array(path / spec.name, mode="r", zarr_format=3) for spec in STORES[kind]}
    except FileNotFoundError as error:
        raise DataError(f"{path} lacks an array of a {kind} store ({error}); run its stage with --overwrite") from error
