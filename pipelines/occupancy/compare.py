"""How well occupancy labels agree with others that are taken as the truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, UInt8

from schemas.classes import ClassTable

Labels = Mapping[str, UInt8[np.ndarray, "X Y Z"]]


def compare_occupancy(
    labels: Labels, truth: Labels, table: ClassTable, swept: Bool[np.ndarray, "X Y Z"] | None = None
) -> dict[str, float]:
    """Agreement of one keyframe's labels with the truth.

    Args:
        labels: `semantics`, `mask_lidar` and `mask_camera`, uint8 (X, Y, Z); the ignored label counts as occupied.
        truth: the same, taken as right.
        table: the classes of both.
        swept: where moving objects pass at other times, see `trails.swept_voxels`.

    Returns:
        `occupied_iou`: occupied against free, over voxels that the truth's LiDAR observed.
        `semantic_accuracy`: share of voxels occupied in both, there, whose class agrees; the ignored label is left out.
        `mask_lidar_f1` and `mask_camera_f1`: agreement of the masks over all voxels.
        `trail_share`, if ``swept`` is given: share of its voxels, free in the truth, that hold anything but ground.
        NaN where nothing is to be compared.
    """
    observed = truth["mask_lidar"] == 1
    ours, theirs = labels["semantics"][observed], truth["semantics"][observed]
    both = table.is_occupied(ours) & table.is_occupied(theirs)
    either = table.is_occupied(ours) | table.is_occupied(theirs)
    known = both & (ours != table.ignored) & (theirs != table.ignored)
    figures = {
        "occupied_iou": _ratio(both.sum(), either.sum()),
        "semantic_accuracy": _ratio((known & (ours == theirs)).sum(), known.sum()),
        "mask_lidar_f1": _f1(labels["mask_lidar"] == 1, observed),
        "mask_camera_f1": _f1(labels["mask_camera"] == 1, truth["mask_camera"] == 1),
    }
    if swept is not None:
        path = swept & ~table.is_occupied(truth["semantics"])
        left = table.is_occupied(labels["semantics"]) & ~table.is_ground(labels["semantics"])
        figures["trail_share"] = _ratio((left & path).sum(), path.sum())
    return figures


def _f1(ours: Bool[np.ndarray, "X Y Z"], theirs: Bool[np.ndarray, "X Y Z"]) -> float:
    return _ratio(2 * (ours & theirs).sum(), ours.sum() + theirs.sum())


def _ratio(part: np.integer, whole: np.integer) -> float:
    return float(part / whole) if whole else float("nan")
