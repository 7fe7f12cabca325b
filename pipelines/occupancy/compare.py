"""How well occupancy labels agree with others that are taken as the truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, UInt8

from schemas.classes import FREE, IGNORED

Labels = Mapping[str, UInt8[np.ndarray, "X Y Z"]]


def compare_occupancy(labels: Labels, truth: Labels) -> dict[str, float]:
    """Agreement of one keyframe's labels with the truth.

    Args:
        labels: `semantics`, `mask_lidar` and `mask_camera`, uint8 (X, Y, Z); class 255 counts as occupied.
        truth: the same, taken as right.

    Returns:
        `occupied_iou`: occupied against free, over voxels that the truth's LiDAR observed.
        `semantic_accuracy`: share of voxels occupied in both, there, whose class agrees; class 255 is left out.
        `mask_lidar_f1` and `mask_camera_f1`: agreement of the masks over all voxels.
        NaN where nothing is to be compared.
    """
    observed = truth["mask_lidar"] == 1
    ours, theirs = labels["semantics"][observed], truth["semantics"][observed]
    both = (ours != FREE) & (theirs != FREE)
    either = (ours != FREE) | (theirs != FREE)
    known = both & (ours != IGNORED) & (theirs != IGNORED)
    return {
        "occupied_iou": _ratio(both.sum(), either.sum()),
        "semantic_accuracy": _ratio((known & (ours == theirs)).sum(), known.sum()),
        "mask_lidar_f1": _f1(labels["mask_lidar"] == 1, observed),
        "mask_camera_f1": _f1(labels["mask_camera"] == 1, truth["mask_camera"] == 1),
    }


def _f1(ours: Bool[np.ndarray, "X Y Z"], theirs: Bool[np.ndarray, "X Y Z"]) -> float:
    return _ratio(2 * (ours & theirs).sum(), ours.sum() + theirs.sum())


def _ratio(part: np.integer, whole: np.integer) -> float:
    return float(part / whole) if whole else float("nan")
