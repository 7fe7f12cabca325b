"""The answer of `eval`: scores by predictor and mask, with everything one must know to read them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from protoocc.completion import CompletionScores
from protoocc.metrics import AbsentRule, Scores
from protoocc.ray_iou import RayScores
from schemas.settings import Frozen

_SHARES: Final = ("miou", "iou", "precision", "recall", "things_iou", "ground_iou")


class ZoneScores(Frozen):
    """Scores of some voxels, shares 0..1; null where a score does not exist (absent classes)."""

    miou: float | None = Field(description="Mean IoU over the scored classes, absent ones by the report's rule.")
    iou: float | None = Field(description="Occupied against free.")
    precision: float | None = Field(description="Share of the voxels predicted as occupied that are.")
    recall: float | None = Field(description="Share of the occupied voxels that are predicted as occupied.")
    things_iou: float | None = Field(description="Classes that are neither ground nor free, against all else.")
    ground_iou: float | None = Field(description="Classes of the ground, against all else.")
    voxels: int = Field(description="Number of scored voxels.")

    @classmethod
    def of(cls, scores: Scores) -> ZoneScores:
        """The same scores without those of single classes."""
        return cls(**_figures(scores))


class CompletionFigures(Frozen):
    """Shares 0..1 by the convention of a published program; null where that divides by zero."""

    iou: float | None = Field(description="Occupied against free.")
    precision: float | None = Field(description="Share of the voxels predicted as occupied that are.")
    recall: float | None = Field(description="Share of the occupied voxels that are predicted as occupied.")
    miou: float | None = Field(description="Mean over the scored classes; absent ones count 0.")

    @classmethod
    def of(cls, scores: CompletionScores) -> CompletionFigures:
        """The same scores."""
        return cls(**{name: _number(share) for name, share in dataclasses.asdict(scores).items()})


@dataclass(frozen=True)
class Parts:
    """Scores of parts of the grid by name."""

    distances: Mapping[str, Scores]
    heights: Mapping[str, Scores]
    ranges: Mapping[str, Scores]
    conventions: Mapping[str, Mapping[str, CompletionScores]]
    """By convention, then by range."""


class MaskScores(ZoneScores):
    """Scores of all voxels that a mask leaves."""

    classes: dict[str, float | None] = Field(description="IoU by class name, without the free one.")
    distances: dict[str, ZoneScores] = Field(description="By ring of horizontal distance from the vehicle.")
    heights: dict[str, ZoneScores] = Field(description="By band of height above the road.")

    ranges: dict[str, ZoneScores] = Field(description="By range before the vehicle, each within the next; or none.")
    conventions: dict[str, dict[str, CompletionFigures]] = Field(
        description="For SemanticKITTI's classes, by published program and by range: its own figures to the last bit."
    )

    @classmethod
    def of_parts(cls, scores: Scores, parts: Parts) -> MaskScores:
        """The same scores and those of parts of the grid."""
        zones = {"distances": parts.distances, "heights": parts.heights, "ranges": parts.ranges}
        return cls(
            **_figures(scores),
            classes={name: _number(share) for name, share in scores.classes.items()},
            **{kind: {name: ZoneScores.of(zone) for name, zone in found.items()} for kind, found in zones.items()},
            conventions={
                convention: {name: CompletionFigures.of(figures) for name, figures in found.items()}
                for convention, found in parts.conventions.items()
            },
        )


class RayFigures(Frozen):
    """RayIoU, shares 0..1; no mask takes part."""

    ray_iou: float | None = Field(description="Mean over all classes and thresholds.")
    at: dict[str, float | None] = Field(description="Mean over the classes at each threshold, `1 m`, `2 m` and `4 m`.")
    classes: dict[str, float | None] = Field(description="Mean over the thresholds by class name.")
    rays: int = Field(description="Number of compared rays.")

    @classmethod
    def of(cls, scores: RayScores) -> RayFigures:
        """The same scores."""
        return cls(
            ray_iou=_number(scores.ray_iou),
            at={f"{threshold_m:g} m": _number(share) for threshold_m, share in scores.at.items()},
            classes={name: _number(share) for name, share in scores.classes.items()},
            rays=scores.rays,
        )


class EvalRow(Frozen):
    """Scores of one predictor."""

    name: str = Field(description="`model` or `predictions`, `frequent_class`, `all_free`.")
    masks: dict[str, MaskScores] = Field(description="By mask protocol: `camera` (the benchmark), `lidar`, `none`.")
    rays: RayFigures | None = Field(description="RayIoU; null where the shards do not say where the LiDAR stands.")

    @property
    def miou(self) -> float | None:
        """The benchmark's mIoU, camera mask."""
        return self.masks["camera"].miou

    @property
    def iou(self) -> float | None:
        """IoU of everything occupied, camera mask."""
        return self.masks["camera"].iou

    @property
    def precision(self) -> float | None:
        """Precision of occupied voxels, camera mask."""
        return self.masks["camera"].precision

    @property
    def recall(self) -> float | None:
        """Recall of occupied voxels, camera mask."""
        return self.masks["camera"].recall

    @property
    def things_iou(self) -> float | None:
        """IoU of things, camera mask."""
        return self.masks["camera"].things_iou

    @property
    def ground_iou(self) -> float | None:
        """IoU of ground, camera mask."""
        return self.masks["camera"].ground_iou

    @property
    def classes(self) -> dict[str, float | None]:
        """IoU by class name, camera mask."""
        return self.masks["camera"].classes


class EvalReport(Frozen):
    """A table of scores and everything one must know to read it."""

    dataset: str = Field(description="Packed entry of datasets.yaml.")
    split: str = Field(description="Evaluated split.")
    samples: int = Field(description="Number of evaluated samples.")
    frames: int | None = Field(description="Keyframes that the network reads for a sample; null for foreign files.")
    absent: AbsentRule = Field(description="Which classes the means leave out; rings and bands never keep absent ones.")
    baseline_split: str | None = Field(description="Split whose labels voted for `frequent_class`; null: no baseline.")
    checkpoint: str | None = Field(description="Run and step, such as runs/a/checkpoints/step-000100.")
    predictions: str | None = Field(description="Folder of predictions, where no checkpoint was scored.")
    unknown_voxels: int = Field(description="Voxels of known class that predictions leave unknown: they count as free.")
    without_rays: str | None = Field(description="Why there is no RayIoU; null where there is.")
    code_version: str = Field(description="Release and commit of the program.")
    rows: tuple[EvalRow, ...] = Field(description="Model or predictions first, then the baselines.")

    def row(self, name: str) -> EvalRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def _figures(scores: Scores) -> dict[str, float | int | None]:
    shares = {name: _number(getattr(scores, name)) for name in _SHARES}
    return {**shares, "voxels": scores.voxels}


def _number(share: float) -> float | None:
    return None if math.isnan(share) else share
