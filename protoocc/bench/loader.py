"""How fast shards are read: beside bare decoding, the ways of others, the disk and a slow line, in one run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Final

import numpy as np

from protoocc.bench.loader_open import open_apart
from protoocc.bench.loader_result import PARTS, PER_SHARD, LoaderBench, LoaderChoice, LoaderRatio, LoaderRow, Part
from protoocc.bench.loader_set import Made, write_index, write_set
from protoocc.bench.loader_stream import SLOWNESS, batches_per_s, streamed_per_s
from protoocc.bench.loader_ways import (
    LIBRARIES,
    is_installed,
    open_bare,
    open_bytes,
    open_container,
    open_ours,
    open_peers,
    open_raw,
    write_container,
    write_peers,
)
from protoocc.bench.readers import Readers, Way
from protoocc.data import ShardSet, open_shards

OURS: Final = "protoocc"
OPENINGS: Final = 3
PIECE: Final = 16
"""Samples of decoding that are timed at once."""
Told = Callable[[], None]
"""Called after each round."""


def measure_loader(
    shards: Path,
    split: str,
    choice: LoaderChoice,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoaderBench:
    """Reads samples of a split in interleaved rounds, ours and what it is held against.

    Args:
        shards: folder of `protoocc pack`.
        split: which of its splits.
        choice: what to measure.
        on_progress: called with finished and total rounds of all parts.

    Raises:
        DataError: shards are missing or damaged.
        StageError: a way fails.
    """
    source = open_shards(shards, split)
    samples = min(choice.samples, len(source.samples))
    choice = choice.model_copy(update={"samples": samples})
    rows, ratios = list[LoaderRow](), list[LoaderRatio]()
    rounds = {"decode": choice.rounds + 1, "bytes": 4 * choice.rounds + 1, "stream": choice.rounds, "open": OPENINGS}
    done, total = count(1), sum(rounds[part] for part in choice.parts)

    def told() -> None:
        on_progress(next(done), total)

    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as name:
        for part in (part for part in PARTS if part in choice.parts):
            found = _MEASURE[part](source, Path(name) / part, choice, told)
            rows += found[0]
            ratios += found[1]
    return LoaderBench(
        shards=str(shards),
        split=split,
        image_shape=source.dataset.image_shape,
        samples=samples,
        rounds=choice.rounds,
        workers=choice.workers,
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


Found = tuple[list[LoaderRow], list[LoaderRatio]]


def _decode(source: ShardSet, folder: Path, choice: LoaderChoice, told: Told) -> Found:
    """Samples decoded in several processes."""
    place, samples = (source.folder, source.split), choice.samples
    size = write_peers(source, folder / "peers", samples, choice.images)
    shape, cameras = source.dataset.image_shape, len(source.dataset.cameras)
    ways = [
        Way(OURS, partial(open_ours, *place)),
        Way("bare decoding", partial(open_bare, *place, samples)),
        Way("peers' files", partial(open_peers, folder / "peers", cameras, shape)),
    ]
    notes = {
        OURS: "read, checked, decoded",
        "bare decoding": "the same bytes, in memory, unchecked: the limit",
        "peers' files": f"{cameras} JPEGs of 1600x900 ({size / 1e3:.0f} kB each) resized, one npz",
    }
    others = {library: _write_other(library, source, folder / library, samples) for library in LIBRARIES}
    usable = [library for library, fault in others.items() if not fault]
    ways += [Way(library, partial(open_container, library, folder / library)) for library in usable]
    notes |= {library: fault or "the same bytes, bare decoding" for library, fault in others.items()}
    best = {way.name: samples / seconds for way, seconds in zip(ways, _seconds(ways, choice, told), strict=True)}
    rows = [_row("decode", name, best.get(name), "samples/s", note) for name, note in notes.items()]
    return rows, [
        _ratio(best[OURS] / best[name], f"decode: over {name}", wanted)
        for name, wanted in _WANTED.items()
        if name in best
    ]


_WANTED: Final = {"peers' files": 4.0, **dict.fromkeys(LIBRARIES, 1.0), "bare decoding": 0.9}


def _write_other(library: str, source: ShardSet, folder: Path, samples: int) -> str:
    """Writes the container of a library; why that cannot be done, or nothing."""
    if not is_installed(library):
        return "not installed: pip install 'protoocc[bench]' 'numpy<2' 'pandas<3'"
    try:
        write_container(library, source, folder, samples)
    except Exception as error:  # of a foreign library, which may lack others of its own
        return f"does not work here: {type(error).__name__}: {error}"
    return ""


def _seconds(ways: Sequence[Way], choice: LoaderChoice, told: Told) -> list[float]:
    """Time that each way takes for all samples: the sum of the shortest times of all pieces; a first round warms up.

    Other programs slow pieces down, so that the shortest of a few short ones says more than that of a few long ones.
    """
    pieces = [range(first, min(first + PIECE, choice.samples)) for first in range(0, choice.samples, PIECE)]
    best = np.full((len(ways), len(pieces)), np.inf)
    with Readers(ways, choice.workers) as readers:
        for turn in range(choice.rounds + 1):
            for (number, _), (place, piece) in product(enumerate(ways), enumerate(pieces)):
                seconds = readers.seconds(number, [piece[n :: choice.workers] for n in range(choice.workers)])
                best[number, place] = min(best[number, place], seconds) if turn else np.inf
            told()
    return [float(seconds) for seconds in best.sum(1)]


def _bytes(source: ShardSet, folder: Path, choice: LoaderChoice, told: Told) -> Found:
    """Bytes of samples, and of the tars alone; with and without the cache of the system."""
    made = write_set(source, folder, samples=choice.streamed, per_shard=PER_SHARD)
    ways = [Way(OURS, partial(open_bytes, folder, made.split)), Way("raw read", partial(open_raw, made.tars))]
    dealt = [range(number, len(made.tars), choice.workers) for number in range(choice.workers)]
    shares = [[[n for tar in share for n in _of_tar(tar, made)] for share in dealt], [list(share) for share in dealt]]
    best: dict[tuple[str, str], float] = {}
    with Readers(ways, choice.workers) as readers:
        for turn in range(4 * choice.rounds + 1):  # they are short
            for state in ("cold", "warm"):
                for number, way in enumerate(ways):
                    if state == "cold":
                        _forget(made.tars)
                    seconds = readers.seconds(number, shares[number])
                    if turn:
                        best[state, way.name] = max(best.get((state, way.name), 0.0), made.size / 1e6 / seconds)
            told()
    notes = {OURS: "members by position, checked by their headers", "raw read": "whole tars, 1 MiB at a time"}
    rows = [_row(f"bytes, {state}", name, rate, "MB/s", notes[name]) for (state, name), rate in best.items()]
    return rows, [
        _ratio(best[state, OURS] / best[state, "raw read"], f"bytes: over raw read, page cache {state}", 0.75)
        for state in ("cold", "warm")
    ]


def _of_tar(number: int, made: Made) -> Iterator[int]:
    """Numbers of the samples of a tar."""
    return iter(range(number * PER_SHARD, min((number + 1) * PER_SHARD, made.samples)))


def _forget(paths: Sequence[Path]) -> None:
    """Asks the system to drop files from its cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _stream(source: ShardSet, folder: Path, choice: LoaderChoice, told: Told) -> Found:
    """Batches of training, from the folder and from a slow server."""
    made = write_set(source, folder, samples=choice.streamed, per_shard=PER_SHARD)
    local = far = 0.0
    for _ in range(choice.rounds):
        local = max(local, batches_per_s(made.folder, made, workers=choice.workers, behind=PER_SHARD))
        far = max(far, streamed_per_s(made, workers=choice.workers, behind=PER_SHARD))
        told()
    line = f"{1000 * SLOWNESS.latency_s:.0f} ms, {SLOWNESS.bytes_per_s / 1e6:.0f} MB/s, nothing cached"
    rows = [
        _row("batches", "folder", local, "samples/s", "as training gets them, tensors in shared memory"),
        _row("batches", "web server", far, "samples/s", line),
    ]
    return rows, [_ratio(far / local, "stream: web server over folder, after the first shard", 0.8)]


def _open(source: ShardSet, folder: Path, choice: LoaderChoice, told: Told) -> Found:
    """Index of a large set."""
    made = write_index(source, folder, samples=choice.indexed, per_shard=2 * PER_SHARD)
    found = []
    for _ in range(OPENINGS):
        found.append(open_apart(folder, made.split))
        told()
    seconds = min(one.seconds for one in found)
    grown = None if found[0].grown_mb is None else max(one.grown_mb or 0.0 for one in found)
    note = f"{found[0].samples:,} samples in {len(made.tars)} shards, in a fresh process"
    rows = [
        _row("open", "time", seconds, "s", note),
        _row("open", "memory", grown, "MB", "growth of the largest resident size, as Linux says it"),
    ]
    ratios = [_ratio(seconds, f"open: {made.samples:,} samples, s", 3.0, is_most=True)]
    if grown is not None:
        ratios.append(_ratio(grown, f"open: {made.samples:,} samples, MB", 150.0, is_most=True))
    return rows, ratios


_MEASURE: Final[dict[Part, Callable[[ShardSet, Path, LoaderChoice, Told], Found]]] = {
    "decode": _decode,
    "bytes": _bytes,
    "stream": _stream,
    "open": _open,
}


def _row(part: str, way: str, best: float | None, unit: str, note: str) -> LoaderRow:
    return LoaderRow(part=part, way=way, best=best, unit=unit, note=note)


def _ratio(value: float, what: str, wanted: float, *, is_most: bool = False) -> LoaderRatio:
    return LoaderRatio(what=what, value=value, wanted=wanted, is_most=is_most)
