"""A finished store against any folder of Occ3D labels: figures per keyframe, voxels per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt8

from pipelines.occupancy.compare import compare_occupancy
from pipelines.occupancy.occ3d import Labels, label_file, read_labels
from pipelines.occupancy.stored import dropped_tokens, each_scene, labelled_rows, open_labels, stored_labels
from pipelines.occupancy.trails import swept_voxels
from pipelines.scheduler import Scheduler
from pipelines.stage import Unit
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.records import read_records
from schemas.workfolder import WorkFolder

FIGURES: Final = ("occupied_iou", "semantic_accuracy", "mask_lidar_f1", "mask_camera_f1", "trail_share")


@dataclass(frozen=True)
class Comparison:
    """Agreement of a store with a folder; ``confusion`` is indexed [other's class, ours], the unknown last."""

    figures: Mapping[str, float | None]
    """Mean over keyframes of each of `FIGURES`; None where no keyframe defines it."""
    per_row: Mapping[int, Mapping[str, float]]
    """Figures of each compared row of the store."""
    confusion: Int64[np.ndarray, "s s"]
    """Voxels that the other's LiDAR mask marks as observed."""
    missing: int
    """Keyframes of the store without a file in the folder."""

    @property
    def worst_row(self) -> int:
        """Row with the lowest occupied IoU."""
        return min(self.per_row, key=lambda row: (np.nan_to_num(self.per_row[row]["occupied_iou"], nan=2.0), row))


def compare_with_folder(
    dataset: DatasetSpec,
    work: Path,
    folder: Path,
    *,
    scheduler: Scheduler,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compares `work/occupancy.zarr` with `<folder>/[gts/]<scene>/<token>/labels.npz`, which is taken as the truth.

    Raises:
        DataError: the store is not finished, no file of its keyframes is there, or one is broken.
        ConfigError: the folder is not there or the store's grid is not in the ego frame.
    """
    if dataset.grid.frame != "ego":
        raise ConfigError(f"Occ3D files hold labels in the ego frame; the grid of '{dataset.name}' is in the LiDAR's")
    gts = gts_of(folder)
    compare = partial(_compare_scene, dataset, work, gts, dropped_tokens(dataset, work))
    per_row: dict[int, Mapping[str, float]] = {}
    confusion, missing = _no_voxels(dataset.classes), 0
    for _, part in each_scene(work, compare, scheduler, on_progress):
        per_row |= part.per_row
        confusion += part.confusion
        missing += part.missing
    if not per_row:
        raise DataError(
            f"{gts} has no <scene>/<token>/labels.npz of the {missing} keyframes of '{dataset.name}'. "
            "Pass the folder that holds `gts`, made for the same dataset."
        )
    return Comparison(_means([per_row[row] for row in sorted(per_row)]), per_row, confusion, missing)


def gts_of(folder: Path) -> Path:
    """`<folder>/gts`, or the folder itself where it holds the scenes.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"--compare {folder}: no such folder; expected one that holds gts/<scene>/<token>/labels.npz")
    return folder / "gts" if (folder / "gts").is_dir() else folder


def _compare_scene(dataset: DatasetSpec, work: Path, gts: Path, dropped: frozenset[str], unit: Unit) -> Comparison:
    per_row: dict[int, Mapping[str, float]] = {}
    confusion, missing = _no_voxels(dataset.classes), 0
    scene, store = read_records(WorkFolder(work).records, unit.entries), open_labels(work)
    for row, record in labelled_rows(work, unit, dropped):
        if not label_file(gts, record).is_file():
            missing += 1
            continue
        labels = stored_labels(store, row, record.token)
        truth = read_labels(label_file(gts, record), record.token, dataset)
        swept = swept_voxels(scene, row - unit.entries[0].row, dataset.grid)
        per_row[row] = compare_occupancy(labels, truth, dataset.classes, swept)
        confusion += _confusion(labels, truth, dataset.classes)
    return Comparison({}, per_row, confusion, missing)


def _no_voxels(table: ClassTable) -> Int64[np.ndarray, "s s"]:
    return np.zeros((table.num_classes + 1, table.num_classes + 1), dtype=np.int64)


def _confusion(labels: Labels, truth: Labels, table: ClassTable) -> Int64[np.ndarray, "s s"]:
    observed = truth["mask_lidar"] == 1
    theirs, ours = (_slots(volume["semantics"][observed], table) for volume in (truth, labels))
    confusion = _no_voxels(table)
    np.add.at(confusion, (theirs, ours), 1)
    return confusion


def _slots(semantics: UInt8[np.ndarray, " n"], table: ClassTable) -> Int64[np.ndarray, " n"]:
    return np.where(semantics == table.ignored, table.num_classes, semantics).astype(np.int64)


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in FIGURES:
        values = [row[name] for row in rows if name in row and not np.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else None
    return means


def class_scores(confusion: Int64[np.ndarray, "s s"]) -> list[tuple[int, dict[str, float | None]]]:
    """Per class that occurs, free included: voxels in the other's labels and in ours, IoU, precision, recall.

    Voxels of unknown class on either side are left out, except from the counts of voxels. None: of no voxels.
    """
    known = confusion[:-1, :-1]
    scores: list[tuple[int, dict[str, float | None]]] = []
    for label in range(len(known)):
        hit, theirs, ours = (float(v) for v in (known[label, label], known[label].sum(), known[:, label].sum()))
        if theirs + ours == 0:
            continue
        scores.append(
            (
                label,
                {
                    "theirs": float(confusion[label].sum()),
                    "ours": float(confusion[:, label].sum()),
                    "iou": hit / (theirs + ours - hit),
                    "precision": hit / ours if ours else None,
                    "recall": hit / theirs if theirs else None,
                },
            )
        )
    return scores
