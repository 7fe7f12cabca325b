"""Classes of static cells: their own point labels, the nearest labelled cells, or ground and map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, UInt8
from scipy.spatial import cKDTree

from pipelines.occupancy.accumulation import SweepGroup
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.ground import BORDER_STRETCH, Ground, MapMask
from pipelines.occupancy.points import UNLABELLED
from schemas.classes import IGNORED, OCC3D_CLASSES

_DRIVEABLE = OCC3D_CLASSES.index("driveable_surface")
_HEIGHT_STRETCH = 4.0
_NEAR_M = 0.1
"""Labelled cells nearer than about this weigh alike."""


def spread_labels(groups: Sequence[SweepGroup], config: LidarConfig, mask: MapMask | None = None) -> list[SweepGroup]:
    """Gives every cell without a point label the class of its nearest labelled cells in the whole scene.

    Cells without a labelled cell within ``neighbour_radius_m`` become `IGNORED`; near ones weigh more, ties go
    to the lower class. Differences in height count fourfold, as classes change at kerbs and feet of walls; differences
    in the distance to the border of the map's driveable area count fivefold more, as classes run along streets.

    Source: Occ3D (arXiv 2304.14365), section 3.3: labels of non-keyframe points from K nearest keyframe points.
    """
    places = [_places(group.cells, mask) for group in groups]
    labels = np.concatenate([group.labels for group in groups])
    known = labels != UNLABELLED
    tree = cKDTree(np.concatenate(places)[known])
    classes = np.append(labels[known], 17).astype(np.int64)
    result = []
    for group, place in zip(groups, places, strict=True):
        unknown = group.labels == UNLABELLED
        spread = group.labels.copy()
        spread[unknown] = _vote_of_neighbours(tree, classes, place[unknown], config)
        result.append(replace(group, labels=spread))
    return result


def _places(cells: Float32[np.ndarray, "c 3"], mask: MapMask | None) -> Float32[np.ndarray, "c 4"]:
    """Where neighbours are looked for: position, and distance to the border of the driveable area."""
    border = np.zeros(len(cells)) if mask is None else BORDER_STRETCH * mask.border_distance(cells)
    return np.column_stack([cells * (1.0, 1.0, _HEIGHT_STRETCH), border]).astype(np.float32)


def _vote_of_neighbours(
    tree: cKDTree, classes: np.ndarray, cells: Float32[np.ndarray, "c 4"], config: LidarConfig
) -> UInt8[np.ndarray, " c"]:
    distance, index = tree.query(cells, k=config.neighbours, distance_upper_bound=config.neighbour_radius_m)
    neighbours = classes[index.reshape(len(cells), config.neighbours)]
    rows = np.repeat(np.arange(len(cells)), config.neighbours)
    weights = 1 / (distance.reshape(-1) + _NEAR_M)
    slots = rows * 18 + neighbours.reshape(-1)
    votes = np.bincount(slots, weights=weights, minlength=len(cells) * 18).reshape(-1, 18)[:, :17]
    return np.where(votes.any(axis=1), votes.argmax(axis=1), IGNORED).astype(np.uint8)


def label_by_map(groups: Sequence[SweepGroup], ground: Ground, mask: MapMask | None) -> list[SweepGroup]:
    """Classes without any point labels: ground inside the map mask is driveable, all other static matter is ignored.

    Nothing here tells sidewalk from terrain or a wall from a hedge, so neither is guessed.
    """
    result = []
    for group in groups:
        labels = np.full(len(group.cells), IGNORED, dtype=np.uint8)
        if mask is not None:
            labels[ground.holds(group.cells) & mask.holds(group.cells)] = _DRIVEABLE
        result.append(replace(group, labels=labels))
    return result
