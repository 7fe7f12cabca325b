"""A finished store against SemanticKITTI's voxel files, as far as they are there: scan, visibility, labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool

from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored import dropped_tokens, each_scene, labelled_rows, open_labels, stored_labels
from pipelines.occupancy.voxel_files import (
    VoxelsConfig,
    check_voxels,
    find_release,
    moved_down,
    read_bit_file,
    read_voxels,
    voxel_file,
)
from pipelines.scheduler import Scheduler
from pipelines.stage import Unit
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord

FIGURES: Final = (
    *("scan_recall", "invalid_iou", "invalid_precision", "occluded_iou", "occluded_precision"),
    *("occupied_iou", "semantic_accuracy"),
)
"""Share of the `.bin` voxels that are occupied; agreement on `.invalid` and `.occluded`, and the share of what the
store calls so that they do too; where a `.label` is there, agreement on it within the scored voxels."""


@dataclass(frozen=True)
class VoxelComparison:
    """Agreement of a store with voxel files, which are taken as right."""

    figures: Mapping[str, float | None]
    """Mean over keyframes of each of `FIGURES`; None where no keyframe has the files for it."""
    keyframes: int
    """That have a `.bin` file."""


def compare_with_voxels(
    dataset: DatasetSpec,
    work: Path,
    folder: Path,
    *,
    scheduler: Scheduler,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VoxelComparison:
    """Compares `work/occupancy.zarr` with `<folder>/<sequence>/voxels`, voxels of release v1.0 in their place.

    Raises:
        ConfigError: another format or class table, or no such folder.
        DataError: the store is not finished, none of its keyframes has files there, or one is broken.
    """
    config = VoxelsConfig(labels=folder)
    check_voxels(dataset, config)
    dropped = dropped_tokens(dataset, work)
    task = partial(_compare_scene, dataset, config, work, dropped)
    rows = [row for _, rows in each_scene(work, task, scheduler, on_progress) for row in rows]
    if not rows:
        raise DataError(f"{folder} has no <sequence>/voxels/<scan>.bin of a keyframe in {work}")
    found = {name: [row[name] for row in rows if name in row and not np.isnan(row[name])] for name in FIGURES}
    return VoxelComparison({name: float(np.mean(v)) if v else None for name, v in found.items()}, len(rows))


def _compare_scene(
    dataset: DatasetSpec, config: VoxelsConfig, work: Path, dropped: frozenset[str], unit: Unit
) -> list[dict[str, float]]:
    store = open_labels(work)
    return [
        compare_keyframe(dataset, config, record, stored_labels(store, row, record.token))
        for row, record in labelled_rows(work, unit, dropped)
        if voxel_file(dataset, config, record, ".bin").is_file()
    ]


def compare_keyframe(
    dataset: DatasetSpec, config: VoxelsConfig, record: SampleRecord, ours: Labels
) -> dict[str, float]:
    """Those of `FIGURES` that a keyframe has files for.

    Raises:
        DataError: a file is broken, or the `.bin` file does not hold the voxels of the scan.
    """
    release = find_release(dataset, config, record)
    if release is None:
        raise DataError(
            f"{voxel_file(dataset, config, record, '.bin')} does not hold the voxels of the keyframe's scan"
        )
    suffixes = [
        name for name in (".bin", ".invalid", ".occluded") if voxel_file(dataset, config, record, name).is_file()
    ]
    theirs = {suffix: read_bit_file(dataset, config, record, suffix).astype(np.uint8) for suffix in suffixes}
    bits = {suffix: values != 0 for suffix, values in (moved_down(theirs) if release == "v1_0" else theirs).items()}
    occupied = ours["semantics"] != dataset.classes.free
    figures = {"scan_recall": _share(bits[".bin"], occupied)}
    for suffix, mask in ((".invalid", "mask_camera"), (".occluded", "mask_lidar")):
        if suffix in bits:
            mine = ours[mask] == 0
            union = int((mine | bits[suffix]).sum())
            figures[f"{suffix[1:]}_iou"] = int((mine & bits[suffix]).sum()) / union if union else float("nan")
            figures[f"{suffix[1:]}_precision"] = _share(mine, bits[suffix])
    if len(bits) == 3 and voxel_file(dataset, config, record).is_file():
        labels = read_voxels(dataset, config, record)[0]
        figures |= _compare_labels(moved_down(labels) if release == "v1_0" else labels, ours, dataset)
    return figures


def _share(of: Bool[np.ndarray, "X Y Z"], within: Bool[np.ndarray, "X Y Z"]) -> float:
    return float(within[of].mean()) if of.any() else float("nan")


def _compare_labels(theirs: Labels, ours: Labels, dataset: DatasetSpec) -> dict[str, float]:
    """Agreement within the voxels that the benchmark scores."""
    table = dataset.classes
    scored = (theirs["mask_camera"] != 0) & (theirs["semantics"] != table.ignored)
    mine, right = ours["semantics"][scored], theirs["semantics"][scored]
    both = (mine != table.free) & (right != table.free)
    either = int(((mine != table.free) | (right != table.free)).sum())
    return {
        "occupied_iou": int(both.sum()) / either if either else float("nan"),
        "semantic_accuracy": float((mine[both] == right[both]).mean()) if both.any() else float("nan"),
    }
