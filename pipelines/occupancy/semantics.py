"""Classes of static cells: their own point labels, the nearest labelled cells, or ground and map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.spatial import cKDTree

from pipelines.occupancy.accumulation import SweepGroup
from pipelines.occupancy.ballot import num_slots, slots_of, winners
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.ground import Ground, MapMask
from pipelines.points import UNKNOWN, UNLABELLED
from schemas.classes import ClassTable


def spread_labels(
    groups: Sequence[SweepGroup], table: ClassTable, config: LidarConfig, mask: MapMask | None = None
) -> list[SweepGroup]:
    """Gives every cell without a point label the class of its nearest labelled cells in the whole scene.

    Cells without a labelled cell within `neighbour_radius_m` become `UNKNOWN`; near ones weigh more, ties go as in
    `ballot.winners`. Differences in height count `height_stretch` times, differences in the distance to the border of
    the map's driveable area `border_stretch` times more.

    Source: Occ3D (arXiv 2304.14365), section 3.3: labels of non-keyframe points from K nearest keyframe points.
    """
    places = [_places(group.cells, mask, config) for group in groups]
    labels = np.concatenate([group.labels for group in groups])
    known = labels != UNLABELLED
    tree = cKDTree(np.concatenate(places)[known])
    slots = np.append(slots_of(labels[known], table), table.num_classes).astype(np.int64)  # the last one: no neighbour
    result = []
    for group, place in zip(groups, places, strict=True):
        unknown = group.labels == UNLABELLED
        spread = group.labels.copy()
        spread[unknown] = _vote_of_neighbours(tree, slots, place[unknown], table, config)
        result.append(replace(group, labels=spread))
    return result


def _places(cells: Float32[np.ndarray, "c 3"], mask: MapMask | None, config: LidarConfig) -> Float32[np.ndarray, "c 4"]:
    """Where neighbours are looked for: position, and distance to the border of the driveable area."""
    border = np.zeros(len(cells)) if mask is None else config.border_stretch * mask.border_distance(cells)
    return np.column_stack([cells * (1.0, 1.0, config.height_stretch), border]).astype(np.float32)


def _vote_of_neighbours(
    tree: cKDTree,
    slots: Int64[np.ndarray, " k"],
    cells: Float32[np.ndarray, "c 4"],
    table: ClassTable,
    config: LidarConfig,
) -> UInt8[np.ndarray, " c"]:
    distance, index = tree.query(cells, k=config.neighbours, distance_upper_bound=config.neighbour_radius_m)
    neighbours = slots[index.reshape(-1)]
    weights = 1 / (distance.reshape(-1) + config.neighbour_blur_m)  # no neighbour is infinitely far away: 0
    rows = np.repeat(np.arange(len(cells)), config.neighbours)
    count = num_slots(table)
    votes = np.bincount(rows * count + neighbours, weights=weights, minlength=len(cells) * count).reshape(-1, count)
    return np.where(votes.any(axis=1), winners(votes, table), np.uint8(UNKNOWN))


def label_by_map(
    groups: Sequence[SweepGroup], ground: Ground, mask: MapMask | None, table: ClassTable
) -> list[SweepGroup]:
    """Classes without any point labels: ground inside the map mask is driveable, all other static matter is unknown.

    Nothing here tells sidewalk from terrain or a wall from a hedge, so neither is guessed. A table without a driveable
    class names no static matter.
    """
    result = []
    for group in groups:
        labels = np.full(len(group.cells), UNKNOWN, dtype=np.uint8)
        if mask is not None and table.driveable is not None:
            labels[ground.holds(group.cells) & mask.holds(group.cells)] = table.index(table.driveable)
        result.append(replace(group, labels=labels))
    return result
