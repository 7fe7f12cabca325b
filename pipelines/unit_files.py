"""What tasks leave behind: the files of a unit with their hashes, its raw files, and the checksum of each row."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pipelines.files import sha256_of, write_bytes
from pipelines.raw_files import stamp_files
from pipelines.units import Layout, Piece, Unit, UnitReport
from schemas.workfolder import CHECKSUMS, UnitMarker

Work = Callable[[Path, Unit], UnitReport]
"""Writes a unit's files below the given folder, which need not be the place where the stage ends up."""


@dataclass(frozen=True)
class UnitTask:
    """What a worker does with a unit: the stage's work, then the hashes of what it wrote and read."""

    work: Work
    folder: Path
    layout: Layout
    root: Path | None
    """Of the dataset."""

    def __call__(self, unit: Unit) -> UnitMarker:
        """The marker of a finished unit; raises what the work raises."""
        report = self.work(self.folder, unit)
        return UnitMarker(
            done=report.done,
            dropped=dict(report.dropped),
            counts=dict(report.counts),
            read=stamp_files(self.root, report.read),
            wrote=hash_files(self.folder, (path for piece in self.layout.pieces(unit) for path in piece.paths)),
        )


def hash_files(folder: Path, paths: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file that is there, by its path below a folder."""
    found = {}
    for relative in sorted(set(paths)):
        path = folder / relative
        if path.is_file():
            found[relative] = (path.stat().st_size, sha256_of([path]))
    return found


def lost_files(folder: Path, wrote: Mapping[str, tuple[int, str]], *, deep: bool = False) -> list[str]:
    """Files of a unit that are gone or of another size; with ``deep`` also those of other contents."""
    lost = []
    for relative, (size, digest) in wrote.items():
        path = folder / relative
        try:
            is_same = path.stat().st_size == size and (not deep or sha256_of([path]) == digest)
        except OSError:
            is_same = False
        if not is_same:
            lost.append(relative)
    return lost


def piece_digest(piece: Piece, hashes: Mapping[str, str]) -> bytes:
    """SHA-256 over a sample's token and the hashes of its files; a file that is not there counts as such."""
    parts = [piece.name, [[path, hashes.get(path)] for path in piece.paths]]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def row_digests(layout: Layout, unit: Unit, marker: UnitMarker) -> bytes:
    """Checksums of a unit's rows, 32 bytes each, in order."""
    hashes = {path: digest for path, (_, digest) in marker.wrote.items()}
    return b"".join(piece_digest(piece, hashes) for piece in layout.pieces(unit))


def write_checksums(folder: Path, digests: bytes) -> None:
    """Writes `checksums.npy`, uint8 (N, 32)."""
    file = io.BytesIO()
    np.save(file, np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32))
    write_bytes(folder / CHECKSUMS, file.getvalue())


def read_checksums(folder: Path) -> UInt8[np.ndarray, "N 32"]:
    """Checksums of all rows; read, not mapped: a mapped file that someone cuts kills the process."""
    values: np.ndarray = np.load(folder / CHECKSUMS, allow_pickle=False)
    return values
