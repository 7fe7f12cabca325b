from __future__ import annotations

from pathlib import Path

import pytest

from protoocc.bench.loader import measure_loader
from schemas.errors import DataError


def test_reads_and_decodes_the_same_samples(shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = measure_loader(
        shards, "train", samples=3, rounds=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert (result.samples, result.rounds, result.split) == (3, 2, "train")
    assert result.reader_per_s > 0 and result.limit_per_s > 0 and result.open_s > 0
    assert result.share == result.reader_per_s / result.limit_per_s
    assert seen == [(1, 2), (2, 2)]
    assert measure_loader(shards, "val", samples=99, rounds=1).samples == 2


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        measure_loader(tmp_path, "train", samples=1, rounds=1)
