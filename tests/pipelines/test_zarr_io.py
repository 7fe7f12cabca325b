"""Chunks that are written without zarr are those that zarr would have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from pipelines.zarr_io import create_store, write_record, write_records
from schemas.errors import DataError
from schemas.store import STORES, ArraySpec
from tests.folders import files_below

SIZES = {"N": 130, "V": 2, "X": 24, "Y": 16, "Z": 8, "H": 36, "W": 64}


def values_of(spec: ArraySpec, rows: int) -> np.ndarray:
    """Few values in runs, as labels have them; floats without a pattern."""
    shape = (rows, *(int(axis) if axis.isdigit() else SIZES[axis] for axis in spec.axes.split()[1:]))
    generator = np.random.default_rng(7)
    if spec.dtype == "float64":
        return generator.normal(size=shape)
    return np.repeat(generator.integers(0, 300, shape[:-1]), shape[-1]).reshape(shape).astype(spec.dtype)


@pytest.mark.parametrize("kind", ["geometry", "occupancy", "masks"])
def test_bytes_are_those_of_zarr(kind: str, tmp_path: Path) -> None:
    """All rows, of which the last chunk of a geometry array is cut short and one row is all fill value."""
    for name in ("ours", "zarrs"):
        create_store(tmp_path / name, kind, SIZES)
    group = zarr.open_group(tmp_path / "zarrs", mode="r+", zarr_format=3)
    for spec in STORES[kind]:
        rows = 130 if spec.chunk > 1 else 3
        values = values_of(spec, rows)
        values[1] = spec.fill
        target = group[spec.name]
        assert isinstance(target, zarr.Array)
        target[:rows] = values
        write_records(tmp_path / "ours", 0, {spec.name: values})
    ours, theirs = files_below(tmp_path / "ours"), files_below(tmp_path / "zarrs")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert len([name for name in ours if "/c/" in name]) == {"geometry": 6, "occupancy": 6, "masks": 4}[kind]


def test_a_row_that_becomes_fill_loses_its_file(tmp_path: Path) -> None:
    create_store(tmp_path, "masks", SIZES)
    segments = values_of(STORES["masks"][0], 1)[0]
    write_record(tmp_path, 4, {"segment_id": segments})
    assert (tmp_path / "segment_id/c/4/0/0/0").is_file()
    write_record(tmp_path, 4, {"segment_id": np.full_like(segments, 65535)})
    assert not (tmp_path / "segment_id/c/4/0/0/0").exists()


def test_rows_within_a_chunk_leave_the_others(tmp_path: Path) -> None:
    create_store(tmp_path, "geometry", SIZES)
    (spec,) = (spec for spec in STORES["geometry"] if spec.name == "global_from_ego")
    poses = values_of(spec, 130)
    write_records(tmp_path, 0, {"global_from_ego": poses})
    write_records(tmp_path, 120, {"global_from_ego": -poses[120:129]})
    stored = zarr.open_group(tmp_path, mode="r", zarr_format=3)["global_from_ego"]
    assert isinstance(stored, zarr.Array)
    sign = np.where((np.arange(130) >= 120) & (np.arange(130) < 129), -1, 1)
    assert np.array_equal(stored[:], sign[:, None, None] * poses)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    create_store(tmp_path, "masks", SIZES)
    with pytest.raises(DataError, match="'segment_count' got uint8 \\(1, 2\\), the store has another shape"):
        write_record(tmp_path, 0, {"segment_count": np.zeros(2, np.uint8)})
    assert not list(tmp_path.rglob("*.partial"))
