"""Scores of SemanticKITTI's scene completion to the last bit, by the published program and by the papers' own programs.

All take the same counts: pairs of label and prediction over the voxels that are scored, 0 = empty. With H the voxels
that are occupied in both, whatever the class, P those predicted as occupied and R those that are:

    IoU = H / (P + R - H)    precision = H / P    recall = H / R
    mIoU = mean over the 19 classes of TP / (TP + FP + FN + a small number)

so a class that does not occur counts 0. The programs differ in the small numbers and in what they do where nothing is
occupied. Some papers' programs count with 32-bit floats, which are exact up to 2^24 voxels only; these counts are whole
numbers of 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from protoocc.metrics import Confusion


@dataclass(frozen=True)
class Convention:
    """What a program adds to its denominators.

    Attributes:
        class_epsilon: to those of the IoU of classes.
        share_epsilon: to those of precision and recall; None: these and IoU are 0 where no voxel is met.
    """

    class_epsilon: float
    share_epsilon: float | None


CONVENTIONS: Final[Mapping[str, Convention]] = {
    "official": Convention(1e-15, float(np.finfo(np.float32).eps)),
    "monoscene": Convention(1e-5, None),
    "symphonies": Convention(1e-6, None),
}
"""`official`: semantic-kitti-api's `evaluate_completion.py`; `monoscene`: the programs of MonoScene and VoxFormer."""


@dataclass(frozen=True)
class CompletionScores:
    """Shares 0..1; NaN where a program divides by zero."""

    iou: float
    precision: float
    recall: float
    miou: float


def completion_scores(confusion: Confusion, convention: Convention) -> CompletionScores:
    """Scores of counted voxels by one convention.

    Args:
        confusion: of the scored voxels; rows are labels.
        convention: whose program.
    """
    counts, table = confusion.counts, confusion.classes
    occupied = table.labels_of(table.occupied)
    both = int(counts[np.ix_(occupied, occupied)].sum())
    predicted, labelled = int(counts[:, occupied].sum()), int(counts[occupied].sum())
    hits, scored = np.diag(counts), table.scored_labels
    unions = counts.sum(0) + counts.sum(1) - hits
    miou = float((hits / (unions + convention.class_epsilon))[scored].mean())
    either = predicted + labelled - both
    if convention.share_epsilon is None:
        if both == 0:
            return CompletionScores(0.0, 0.0, 0.0, miou)
        return CompletionScores(both / either, both / predicted, both / labelled, miou)
    return CompletionScores(
        iou=both / either if either else float("nan"),
        precision=both / (predicted + convention.share_epsilon),
        recall=both / (labelled + convention.share_epsilon),
        miou=miou,
    )
