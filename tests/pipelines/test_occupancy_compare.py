"""A store against a folder of Occ3D labels: sums by hand, missing and broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy.compare_folder import FIGURES, class_scores, compare_with_folder
from pipelines.occupancy.export import encode_labels
from pipelines.occupancy.occ3d import label_file
from pipelines.occupancy.stored import read_row
from pipelines.scheduler import Scheduler
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.records import read_index, read_records

SYNC = Scheduler(kind="sync")
CAR, TRUCK, FREE = 4, 10, 17


def test_a_store_agrees_with_its_own_source(world_dataset: DatasetSpec, stored: Path) -> None:
    comparison = compare_with_folder(world_dataset, stored, world_dataset.root, scheduler=SYNC)
    assert sorted(comparison.per_row) == [0, 1, 2, 3] and comparison.missing == 0
    assert tuple(comparison.figures) == FIGURES
    assert all(value == 1.0 for name, value in comparison.figures.items() if name != "trail_share")
    assert comparison.figures["trail_share"] == 0.0
    observed = sum(np.load(path)["mask_lidar"].sum(dtype=np.int64) for path in world_dataset.root.glob("gts/*/*/*.npz"))
    assert comparison.confusion.sum() == observed == np.trace(comparison.confusion)


def test_class_table_by_hand() -> None:
    confusion = np.zeros((19, 19), np.int64)
    confusion[CAR, CAR], confusion[CAR, FREE], confusion[TRUCK, CAR] = 6, 2, 1
    confusion[CAR, 18] = 5  # ours unknown: not scored
    scores = dict(class_scores(confusion))
    # 6 / (8 + 7 - 6) = 2 / 3; 6 of our 7; 6 of their 8
    assert scores[CAR] == pytest.approx({"theirs": 13, "ours": 7, "iou": 2 / 3, "precision": 6 / 7, "recall": 6 / 8})
    assert scores[TRUCK]["precision"] is None and scores[TRUCK]["recall"] == 0
    assert list(scores) == [CAR, TRUCK, FREE]


def test_differences_are_found_and_the_worst_keyframe_named(
    world_dataset: DatasetSpec, stored: Path, tmp_path: Path
) -> None:
    """Two of four keyframes are in the folder; in one of them half of the occupied, observed voxels are gone."""
    ious = {}
    for row in (0, 2):
        record, labels = read_row(stored, row)
        counted = np.flatnonzero((labels["semantics"] != FREE) & (labels["mask_lidar"] == 1))
        if row == 2:
            labels["semantics"].reshape(-1)[counted[::2]] = FREE
        ious[row] = 1.0 if row == 0 else (len(counted) // 2) / len(counted)
        path = label_file(tmp_path, record)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_labels(labels, OCC3D))
    comparison = compare_with_folder(world_dataset, stored, tmp_path, scheduler=SYNC)
    assert comparison.missing == 2
    assert comparison.worst_row == 2
    assert comparison.per_row[2]["occupied_iou"] == pytest.approx(ious[2])
    assert comparison.figures["occupied_iou"] == pytest.approx((ious[0] + ious[2]) / 2)
    assert comparison.figures["mask_lidar_f1"] == 1.0


def test_folders_that_cannot_be_compared(world_dataset: DatasetSpec, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        compare_with_folder(world_dataset, stored, tmp_path / "nowhere", scheduler=SYNC)
    with pytest.raises(DataError, match=r"has no <scene>/<token>/labels.npz of the 4 keyframes"):
        compare_with_folder(world_dataset, stored, tmp_path, scheduler=SYNC)
    record = read_records(stored / "records", read_index(stored / "records"))[0]
    path = label_file(tmp_path, record)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=rf"{record.token}.*is damaged"):
        compare_with_folder(world_dataset, stored, tmp_path, scheduler=SYNC)
