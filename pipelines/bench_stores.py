"""What stores cost: bytes and random reads a sample, beside zarr alone and one npz file per sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.manifests import read_manifest
from pipelines.zarr_io import StoreRows, open_store, row_piece
from schemas.errors import DataError
from schemas.records import RecordEntry, read_index
from schemas.workfolder import WorkFolder


@dataclass(frozen=True)
class StoreCost:
    """Figures of one store; rates are samples per second of one core (CPU time), all of the same rows in one run."""

    name: str
    samples: int
    bytes_per_sample: float
    npz_bytes_per_sample: float
    """The same arrays as `np.savez_compressed` writes them, without checksums."""
    reads: float
    """`StoreRows`: checksums of row and sample included."""
    bare_reads: float
    """zarr alone, without checks."""
    npz_reads: float


def bench_stores(work: Path, scratch: Path, reads: int) -> list[StoreCost]:
    """Measures every finished store of a work folder.

    Args:
        work: folder with finished `records`.
        scratch: folder for npz files that are thrown away.
        reads: random rows that each way reads, in four rounds that take turns.

    Raises:
        DataError: there are no finished stores, or a row is damaged.
    """
    folders = WorkFolder(work)
    entries = [entry for entry in read_index(folders.records) if entry.splits]
    stores = {"geometry": folders.geometry, "occupancy": folders.occupancy}
    kinds = [(kind, path) for kind, path in stores.items() if path.exists()]
    kinds += [("masks", folders.masks(name)) for name in folders.generators()]
    costs = [_measure(kind, path, entries, scratch / path.name, reads) for kind, path in kinds]
    if not costs:
        raise DataError(f"{work} holds no stores; run `protoocc prepare` first")
    return costs


def _measure(kind: str, path: Path, entries: Sequence[RecordEntry], scratch: Path, reads: int) -> StoreCost:
    dropped = read_manifest(path).dropped
    kept = [entry for entry in entries if entry.token not in dropped]
    if not kept:
        raise DataError(f"{path} holds no samples that a split names")
    drawn = np.random.default_rng(0).integers(0, len(kept), reads)
    sample = [kept[number] for number in drawn]
    rows, arrays = StoreRows(path, kind), open_store(path, kind)
    scratch.mkdir(parents=True)
    for entry in {entry.row: entry for entry in sample}.values():
        np.savez_compressed(scratch / f"{entry.row}.npz", **rows.read(entry.row, entry.token))
    ways: list[Callable[[RecordEntry], object]] = [
        lambda entry: rows.read(entry.row, entry.token),
        lambda entry: [np.asarray(array[entry.row]) for array in arrays.values()],
        lambda entry: _read_npz(scratch / f"{entry.row}.npz"),
    ]
    rates = _rates(ways, sample)
    files = {path / name for entry in kept for name in row_piece(kind, entry.row, entry.token).paths}
    stored = sum(file.stat().st_size for file in files if file.is_file())
    npz = [file.stat().st_size for file in scratch.iterdir()]
    return StoreCost(path.name, len(kept), stored / len(kept), float(np.mean(npz)), *rates)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _rates(ways: Sequence[Callable[[RecordEntry], object]], sample: Sequence[RecordEntry]) -> list[float]:
    """Reads per CPU second of each way; all take turns, so that what else the machine does strikes all alike."""
    seconds = [0.0] * len(ways)
    for part in np.array_split(np.arange(len(sample)), 4):
        for number, read in enumerate(ways):
            read(sample[0])
            started = time.process_time()
            for index in part:
                read(sample[index])
            seconds[number] += time.process_time() - started
    return [len(sample) / max(value, 1e-9) for value in seconds]
