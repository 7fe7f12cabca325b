"""Records and geometry of the tiny generated world and of the real keyframes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import NUSCENES_CAMERAS, DatasetSpec, SplitSpec
from schemas.records import read_records


def test_records_are_ordered_and_linked(prepared: Path) -> None:
    records = read_records(prepared / "records")
    assert [(r.scene, r.frame) for r in records] == [
        ("synth-0000", 0), ("synth-0000", 1), ("synth-0001", 0), ("synth-0001", 1),
    ]  # fmt: skip
    assert [r.splits for r in records] == [("train",), ("train",), ("val",), ("val",)]
    first, second = records[:2]
    assert (first.previous, first.next) == (None, second.token)
    assert (second.previous, second.next) == (first.token, None)
