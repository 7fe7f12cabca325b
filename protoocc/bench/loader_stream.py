"""Batches of training from a set of shards, here and behind a slow line."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from protoocc.bench.loader_set import Made
from protoocc.bench.slow_server import Slowness, slow_server
from protoocc.data import ShardDataset, make_loader, open_shards
from protoocc.shards.mirror import mirror
from protoocc.shards.places import Place

BATCH: Final = 4
_CACHE_BYTES: Final = 2**32
SLOWNESS: Final = Slowness()


def batches_per_s(folder: Path, made: Made, *, workers: int, behind: int) -> float:
    """Samples per second of the loader of training, without those of the first shard.

    Args:
        folder: of the set, or its mirror.
        made: the set.
        workers: processes that read ahead.
        behind: samples of the first shard, a multiple of `BATCH`.
    """
    dataset = ShardDataset(open_shards(folder, made.split))
    batches = [list(range(first, min(first + BATCH, made.samples))) for first in range(0, made.samples, BATCH)]
    started, count = time.perf_counter(), 0
    for batch in make_loader(dataset, batches, workers=workers, pin_memory=False):
        count += len(batch.tokens)
        if count <= behind:
            started = time.perf_counter()
    return (count - behind) / (time.perf_counter() - started)


def streamed_per_s(made: Made, *, workers: int, behind: int) -> float:
    """The same from a slow web server on this machine, into an empty cache.

    Args:
        made: the set.
        workers: processes that read ahead.
        behind: samples of the first shard, a multiple of `BATCH`.
    """
    with tempfile.TemporaryDirectory() as cache, slow_server(made.folder, SLOWNESS) as address:
        folder = mirror(Place(address), Path(cache), limit=_CACHE_BYTES)
        return batches_per_s(folder, made, workers=workers, behind=behind)
