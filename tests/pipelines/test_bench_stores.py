"""`bench stores` on a generated world: sizes are those of the files, and our reads keep up with zarr's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.bench_stores import bench_stores
from pipelines.zarr_io import StoreRows, open_store
from schemas.records import read_index


def test_sizes_are_those_of_the_files_and_reads_keep_up(stored: Path, tmp_path: Path) -> None:
    costs = {cost.name: cost for cost in bench_stores(stored, tmp_path, 40)}
    assert set(costs) == {"geometry.zarr", "occupancy.zarr", "masks-seeds.zarr"}
    labels = costs["occupancy.zarr"]
    files = [file for file in (stored / "occupancy.zarr").glob("*/c/*/0/0/0") if file.is_file()]
    assert labels.samples == 4 and len(files) == 12
    assert labels.bytes_per_sample == sum(file.stat().st_size for file in files) / 4
    assert 0.5 < labels.npz_bytes_per_sample / labels.bytes_per_sample < 2
    assert labels.reads > 0.9 * labels.bare_reads


def test_every_row_is_what_zarr_reads(stored: Path) -> None:
    entries = read_index(stored / "records")
    for kind, name in (("geometry", "geometry"), ("occupancy", "occupancy"), ("masks", "masks-seeds")):
        rows, arrays = StoreRows(stored / f"{name}.zarr", kind), open_store(stored / f"{name}.zarr", kind)
        for entry in entries:
            for array, values in rows.read(entry.row, entry.token).items():
                expected = np.asarray(arrays[array][entry.row])
                assert values.dtype == expected.dtype and np.array_equal(values, expected, equal_nan=True)
