"""How fast shards are read: samples per second of the reader beside bare decoding of the same bytes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from protoocc.data import ShardDataset, open_shards
from protoocc.shards.members import MemberReader
from schemas.settings import Frozen
from schemas.shards import OCCUPANCY_MEMBER
from schemas.store import OCCUPANCY


class LoaderBench(Frozen):
    """Figures of one process that reads with one thread."""

    shards: str = Field(description="Folder that was read.")
    split: str = Field(description="Its split.")
    samples: int = Field(description="Samples of one round.")
    rounds: int = Field(description="Interleaved rounds; the best of each counts.")
    open_s: float = Field(description="Time to read and check manifest and indexes.")
    reader_per_s: float = Field(description="Samples per second of the reader: read, check, decode.")
    limit_per_s: float = Field(description="Samples per second of decoding the same bytes, read before, unchecked.")

    @property
    def share(self) -> float:
        """Reader over limit."""
        return self.reader_per_s / self.limit_per_s


def measure_loader(
    shards: Path,
    split: str,
    *,
    samples: int,
    rounds: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoaderBench:
    """Reads the first samples of a split in interleaved rounds with their bare decoding.

    Args:
        shards: folder of `protoocc pack`.
        split: which of its splits.
        samples: samples of one round; all of a smaller split.
        rounds: of each; the fastest counts, as other programs only slow a round down.
        on_progress: finished and total rounds.

    Raises:
        DataError: shards are missing or damaged.
    """
    started = time.perf_counter()
    dataset = ShardDataset(open_shards(shards, split))
    open_s = time.perf_counter() - started
    count = min(samples, len(dataset))
    reader = MemberReader(dataset.shards)
    stored = [reader.read(index, dataset.shards.manifest.extensions) for index in range(count)]
    reader.close()
    reader_s, limit_s = [], []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        for number in range(rounds):
            reader_s.append(_seconds(lambda: [dataset[index] for index in range(count)]))
            limit_s.append(_seconds(lambda: [_decode(members) for members in stored]))
            on_progress(number + 1, rounds)
    finally:
        cv2.setNumThreads(threads)
        dataset.close()
    return LoaderBench(
        shards=str(shards),
        split=split,
        samples=count,
        rounds=rounds,
        open_s=open_s,
        reader_per_s=count / min(reader_s),
        limit_per_s=count / min(limit_s),
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _decode(members: dict[str, bytes]) -> list[np.ndarray]:
    """What no reader can do without: images and masks by OpenCV, arrays by numpy."""
    images = [
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        for name, data in members.items()
        if name.endswith((".jpg", ".png"))
    ]
    with np.load(io.BytesIO(members[OCCUPANCY_MEMBER]), allow_pickle=False) as arrays:
        return images + [arrays[spec.name] for spec in OCCUPANCY]
