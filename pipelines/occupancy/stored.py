"""Rows of a finished `occupancy.zarr` together with their records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.occupancy.occ3d import LABEL_ARRAYS, Labels
from pipelines.stage import Unit, read_manifest
from pipelines.zarr_io import open_store
from schemas.errors import DataError
from schemas.records import SampleRecord, read_records


def dropped_tokens(work: Path) -> frozenset[str]:
    """Tokens of the keyframes that the finished store lacks because they were broken.

    Raises:
        DataError: the store is not finished.
    """
    return frozenset(read_manifest(work / "occupancy.zarr")["dropped"])


def labelled_rows(work: Path, unit: Unit, dropped: frozenset[str]) -> list[tuple[int, SampleRecord]]:
    """Number and record of each row of a unit that has labels: some split names it and it was not dropped."""
    records = read_records(work / "records", start=unit.start, stop=unit.stop)
    rows = enumerate(records, start=unit.start)
    return [(row, record) for row, record in rows if record.splits and record.token not in dropped]


def read_row(work: Path, row: int) -> tuple[SampleRecord, Labels]:
    """Record and labels of one row.

    Raises:
        DataError: records or store are not finished or have no such row.
    """
    records = read_records(work / "records", start=row, stop=row + 1)
    if not records:
        raise DataError(f"{work / 'records'} has no row {row}; run `protoocc prepare` again")
    return records[0], stored_labels(work, row)


def stored_labels(work: Path, row: int) -> Labels:
    """`semantics`, `mask_lidar` and `mask_camera` of one row.

    Raises:
        DataError: the store is not finished.
    """
    arrays = open_store(work / "occupancy.zarr", "occupancy")
    return {name: np.asarray(arrays[name][row]) for name in LABEL_ARRAYS}
