"""Measures of pseudo masks: numbers worked out by hand, and the report of a generated world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.mask_report import report_masks
from pipelines.mask_quality import fit_of
from pipelines.mask_report import chosen_keyframes, measure_masks
from pipelines.scheduler import Scheduler
from pipelines.zarr_io import StoreRows
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import read_index
from schemas.workfolder import WorkFolder

HERE = Scheduler("sync")


def test_exact_segments_fit() -> None:
    exact = np.repeat(np.arange(4), 25).reshape(10, 10)
    fit = fit_of(exact + 7, exact)
    assert (fit.achievable_accuracy, fit.boundary_recall, fit.undersegmentation_error) == (1.0, 1.0, 0.0)


def test_a_segment_that_leaks_by_hand() -> None:
    """4 x 8 pixels, exact halves of 16; segments of 20 and 12: 4 pixels of the first one lie in the other half.

    Each overlap of the leaking segment adds its smaller part: min(16, 4) + min(4, 16); the border is one pixel off.
    """
    exact = np.tile(np.arange(8) >= 4, (4, 1)).astype(np.int64)
    fit = fit_of(np.tile(np.arange(8) >= 5, (4, 1)).astype(np.uint16), exact)
    assert fit.achievable_accuracy == pytest.approx(28 / 32)
    assert fit.undersegmentation_error == pytest.approx(8 / 32)
    assert fit.boundary_recall == 1.0
    far = fit_of(np.tile(np.arange(8) >= 7, (4, 1)).astype(np.uint16), exact)
    assert far.boundary_recall == 0.0 and far.achievable_accuracy == pytest.approx(20 / 32)


def test_one_segment_and_one_thing() -> None:
    one = np.zeros((3, 3), np.uint16)
    assert fit_of(one, one.astype(np.int64)).boundary_recall == 1.0
    thing = one.astype(np.int64)
    thing[1, 1] = 5
    fit = fit_of(one, thing)
    assert fit.achievable_accuracy == pytest.approx(8 / 9) and fit.undersegmentation_error == pytest.approx(2 / 9)
    assert fit.boundary_recall == 0.0


def test_keyframes_are_spread(stored: Path) -> None:
    work = WorkFolder(stored)
    every = [entry for entry in read_index(work.records) if entry.splits]
    assert chosen_keyframes(work, "seeds", 100) == every
    assert chosen_keyframes(work, "seeds", 1) == [every[len(every) // 2]]


def test_report_of_a_generated_world(stored: Path, world_dataset: DatasetSpec) -> None:
    answer = report_masks(world_dataset, HERE)
    (figures,) = answer["masks"]
    work = WorkFolder(stored)
    store = StoreRows(work.masks("seeds"), "masks")
    segments = [store.read(e.row, e.token)["segment_id"] for e in read_index(work.records) if e.splits]
    counts = [len(np.unique(image)) for keyframe in segments for image in keyframe]
    assert figures["images"] == len(counts) and figures["segments"] == pytest.approx(np.mean(counts))
    assert figures["uncovered"] == 0
    assert (figures["fewest"], figures["most"], figures["single"]) == (min(counts), max(counts), 0)
    assert figures["fit"]["achievable_accuracy"] > 0.9 > figures["fit"]["undersegmentation_error"] > 0
    page = Path(answer["report"]).read_text()
    assert "undersegmentation error" in page and "http" not in page and Path(answer["picture"]).is_file()


def test_masks_that_were_not_made(stored: Path, world_dataset: DatasetSpec) -> None:
    with pytest.raises(DataError, match="masks-sam"):
        measure_masks(world_dataset, "sam", scheduler=HERE)
