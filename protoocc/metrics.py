"""Occupancy scores: one integer confusion matrix over the voxels that the cameras observe.

Protocol of Occ3D-nuScenes: voxels with mask_camera, unknown labels left out, counts summed over all samples (never
averaged per sample), IoU per class, mIoU over the scored classes of the table (there all but free, `others` included).
SemanticKITTI counts in the same way over the voxels that are not `.invalid`; its mean keeps classes that do not occur,
as 0, and it asks for precision and recall of occupied voxels too (`protoocc/completion.py` has it to the last bit).

Beside the IoU of everything occupied stand those of two groups, each against all other voxels, whatever the class
within the group: things (all classes but ground and free) and ground. Flat ground fills most occupied voxels of a
street, so it alone decides the IoU of everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from protoocc.labels import check_labels
from schemas.classes import SEMANTICKITTI, ClassTable

AbsentRule = Literal["original", "labelled", "zero"]
"""Which classes the mean leaves out: `original` those that are neither labelled nor predicted, as Occ3D does;
`labelled` all that are not labelled, even if predicted; `zero` none, as SemanticKITTI does: an absent class has IoU 0.
They differ only on small subsets and where a split lacks a class."""


def benchmark_rule(classes: ClassTable) -> AbsentRule:
    """The rule of the benchmark whose classes these are; Occ3D's for tables of one's own."""
    return "zero" if (classes.names, classes.free) == (SEMANTICKITTI.names, SEMANTICKITTI.free) else "original"


@dataclass(frozen=True)
class Scores:
    """Shares 0..1.

    Attributes:
        miou: mean over the scored classes, absent ones by the rule; NaN when all are absent and left out.
        iou: occupied against free, whatever the class; NaN when nothing is occupied in labels and prediction.
        precision: of the voxels that are predicted as occupied, those that are; NaN when there are none.
        recall: of the voxels that are occupied, those that are predicted as occupied; NaN when there are none.
        things_iou: any thing (`ClassTable.things`) against all else; NaN when there is none in labels and prediction.
        ground_iou: any class of the ground against all else; NaN likewise.
        classes: IoU of each class but free by name, in order of index; NaN where the rule leaves the class out.
        voxels: number of scored voxels.
    """

    miou: float
    iou: float
    precision: float
    recall: float
    things_iou: float
    ground_iou: float
    classes: Mapping[str, float]
    voxels: int


class Confusion:
    """Counts of (label, prediction) pairs, added up sample by sample; L x L int64, whatever the number of samples."""

    def __init__(self, classes: ClassTable) -> None:
        """Starts without counts, for labels of one class table."""
        self.classes = classes
        self.counts: Int64[np.ndarray, "L L"] = np.zeros((classes.num_classes, classes.num_classes), np.int64)

    def add(
        self,
        prediction: UInt8[np.ndarray, "X Y Z"],
        semantics: UInt8[np.ndarray, "X Y Z"],
        mask: Bool[np.ndarray, "X Y Z"],
    ) -> None:
        """Counts one sample.

        Args:
            prediction: class of each voxel.
            semantics: label of each voxel, which may be unknown.
            mask: voxels that are scored (mask_camera).

        Raises:
            DataError: a class outside the table.
        """
        scored = mask & (semantics != self.classes.ignored)
        label, predicted = semantics[scored], prediction[scored]
        check_labels("label", label, self.classes, may_be_unknown=True)
        check_labels("prediction", predicted, self.classes, may_be_unknown=False)
        number = self.classes.num_classes
        pairs = label.astype(np.int64) * number + predicted
        self.counts += np.bincount(pairs, minlength=number**2).reshape(number, number)

    def scores(self, absent: AbsentRule | None = None) -> Scores:
        """Scores of everything counted so far.

        Args:
            absent: which classes the mean leaves out; None for the rule of the benchmark (`benchmark_rule`).
        """
        table, hits = self.classes, np.diag(self.counts)
        present = self._present(absent or benchmark_rule(table))
        labelled, predicted = self.counts.sum(1), self.counts.sum(0)
        shares = np.where(present, hits / np.maximum(labelled + predicted - hits, 1), np.nan)
        occupied = table.is_occupied(np.arange(table.num_classes, dtype=np.uint8))
        scored = table.scored_labels
        return Scores(
            miou=float(np.nanmean(shares[scored])) if present[scored].any() else float("nan"),
            iou=self._iou(table.labels_of(table.occupied)),
            precision=_share(self.counts[np.ix_(occupied, occupied)], self.counts[:, occupied]),
            recall=_share(self.counts[np.ix_(occupied, occupied)], self.counts[occupied]),
            things_iou=self._iou(table.labels_of(table.things)),
            ground_iou=self._iou(table.labels_of(table.ground)),
            classes=dict(zip(table.occupied, shares[occupied].tolist(), strict=True)),
            voxels=int(self.counts.sum()),
        )

    def _present(self, absent: AbsentRule) -> Bool[np.ndarray, " L"]:
        """Classes that the mean keeps."""
        labelled, predicted = self.counts.sum(1) > 0, self.counts.sum(0) > 0
        kept: dict[AbsentRule, Bool[np.ndarray, " L"]] = {
            "original": labelled | predicted,
            "labelled": labelled,
            "zero": np.ones_like(labelled),
        }
        return kept[absent]

    def _iou(self, group: UInt8[np.ndarray, " n"]) -> float:
        """IoU of some classes as if they were one; NaN where none of them occurs."""
        both = int(self.counts[np.ix_(group, group)].sum())
        either = int(self.counts[group].sum() + self.counts[:, group].sum()) - both
        return both / either if either else float("nan")


def _share(some: Int64[np.ndarray, ...], whole: Int64[np.ndarray, ...]) -> float:
    """Counts of a part over those of the whole; NaN where the whole is empty."""
    total = int(whole.sum())
    return int(some.sum()) / total if total else float("nan")
