"""SLIC superpixels: labels that cover, follow edges, and do not depend on order; the stage makes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from pipelines.masks import SlicConfig, make_masks
from pipelines.masks.slic import SlicGenerator
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec


def noise(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (1600, 900), interpolation=cv2.INTER_CUBIC))


def test_labels_cover_and_are_connected() -> None:
    (labels,) = SlicGenerator(SlicConfig()).generate([noise(0)])
    assert labels.shape == (450, 800)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    # 800 x 450 pixels in squares of 35 are 294; pieces of less than a quarter of one have joined a neighbour
    assert 200 < labels.max() < 400
    pieces = [cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] - 1 for label in range(40)]
    assert pieces == [1] * 40


def test_size_of_superpixels_is_a_setting() -> None:
    (large,) = SlicGenerator(SlicConfig(region_px=70)).generate([noise(0)])
    assert 50 < large.max() < 100


def test_same_labels_in_any_order() -> None:
    generator = SlicGenerator(SlicConfig())
    (fresh,) = generator.generate([noise(0)])
    np.testing.assert_array_equal(generator.generate([noise(1), noise(0)])[1], fresh)


def test_edges_are_followed() -> None:
    """Left half dark, right half bright, edge at column 410: no segment holds more than a sliver of both."""
    image = np.zeros((450, 800, 3), np.uint8)
    image[:, 410:] = 220
    (labels,) = SlicGenerator(SlicConfig()).generate([image])
    count = int(labels.max()) + 1
    sides = [np.bincount(half.ravel(), minlength=count) for half in (labels[:, :410], labels[:, 410:])]
    assert np.minimum(*sides).sum() / labels.size < 0.005


def test_stage_writes_them(prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    shutil.copytree(prepared / "records", tmp_path / "records")
    summary = make_masks(world_dataset, tmp_path, SlicConfig(), sync_runtime)
    store = open_store(tmp_path / "masks-slic.zarr", "masks")
    assert store["segment_id"].shape == (4, 6, 104, 200)
    assert summary.counts["segments"] == store["segment_count"][:].sum() > 24 * 100
