"""Occ3D-nuScenes scores: one integer confusion matrix over the voxels that the cameras observe.

Protocol of the benchmark: voxels with mask_camera, labels 255 left out, counts summed over all samples (never averaged
per sample), IoU per class, mIoU over classes 0..16 (`others` included, `free` excluded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from schemas.classes import FREE, IGNORED
from schemas.errors import DataError

NUM_CLASSES = FREE + 1
AbsentRule = Literal["original", "labelled"]
"""Which classes the mean leaves out: `original` those that are neither labelled nor predicted, as the benchmark does;
`labelled` all that are not labelled, even if predicted. They differ only on small subsets."""


@dataclass(frozen=True)
class Scores:
    """Shares 0..1.

    Attributes:
        miou: mean of ``classes`` without the absent ones; NaN when all are absent.
        iou: occupied against free, whatever the class; NaN when nothing is occupied in labels and prediction.
        classes: IoU of classes 0..16; NaN where the class is absent.
        voxels: number of scored voxels.
    """

    miou: float
    iou: float
    classes: tuple[float, ...]
    voxels: int


class Confusion:
    """Counts of (label, prediction) pairs, added up sample by sample; 18 x 18 int64, whatever the number of samples."""

    def __init__(self) -> None:
        self.counts: Int64[np.ndarray, "18 18"] = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)

    def add(
        self,
        prediction: UInt8[np.ndarray, "X Y Z"],
        semantics: UInt8[np.ndarray, "X Y Z"],
        mask: Bool[np.ndarray, "X Y Z"],
    ) -> None:
        """Counts one sample.

        Args:
            prediction: class 0..17 of each voxel.
            semantics: label 0..17, or 255 for unknown.
            mask: voxels that are scored (mask_camera).

        Raises:
            DataError: a class outside the tables.
        """
        scored = mask & (semantics != IGNORED)
        label, predicted = semantics[scored], prediction[scored]
        for name, values in (("label", label), ("prediction", predicted)):
            if values.size and values.max() >= NUM_CLASSES:
                raise DataError(f"{name} holds class {values.max()}; expected 0..{FREE}, or {IGNORED} in labels")
        pairs = label.astype(np.int64) * NUM_CLASSES + predicted
        self.counts += np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)

    def scores(self, absent: AbsentRule = "original") -> Scores:
        """Scores of everything counted so far.

        Args:
            absent: which classes the mean leaves out.
        """
        hits, labelled, predicted = np.diag(self.counts), self.counts.sum(1), self.counts.sum(0)
        present = labelled + predicted > 0 if absent == "original" else labelled > 0
        union = labelled + predicted - hits
        classes = np.where(present, hits / np.maximum(union, 1), np.nan)[:FREE]
        occupied = int(self.counts[:FREE, :FREE].sum())
        either = int(self.counts.sum() - self.counts[FREE, FREE])
        return Scores(
            miou=float(np.nanmean(classes)) if present[:FREE].any() else float("nan"),
            iou=occupied / either if either else float("nan"),
            classes=tuple(float(share) for share in classes),
            voxels=int(self.counts.sum()),
        )
