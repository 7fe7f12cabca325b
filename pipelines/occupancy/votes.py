"""What the points of one keyframe say: votes of static matter and of objects in their voxels, and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from pipelines.occupancy.accumulation import SweepGroup
from pipelines.occupancy.completion import FIRST_GROUND, LAST_GROUND, is_ground_class
from pipelines.occupancy.kernels import add_votes
from schemas.classes import FREE, IGNORED, OCC3D_CLASSES
from schemas.geometry import VoxelGrid, invert_rigid, transform_points
from schemas.records import SampleRecord

_IGNORED_SLOT: Final = 17
_SLOTS: Final = 18
_SYMMETRIC: Final = frozenset(
    OCC3D_CLASSES.index(name) for name in ("bicycle", "bus", "car", "motorcycle", "trailer", "truck")
)
"""Construction vehicles carry their arms on either side."""


@dataclass(frozen=True)
class Points:
    """What a frame's voxels hold; slot 17 of the votes counts points of unknown class."""

    static: Float64[np.ndarray, "n 3"]
    """Static points, voxel units."""
    static_labels: UInt8[np.ndarray, " n"]
    static_votes: Int32[np.ndarray, "X Y Z 18"]
    """Cells of `LidarConfig.cell_m`: a surface has as many votes as it has area, however often it was measured."""
    moved_votes: Int32[np.ndarray, "X Y Z 18"]
    """Cells of objects, the mirrored ones of vehicles included."""
    counts: Int32[np.ndarray, "X Y Z"]
    """Measured points."""
    mirrored: Int32[np.ndarray, "X Y Z"]
    """Cells of vehicles that were measured on their other side."""
    things: Float64[np.ndarray, "m 3"]
    """Points of anything but ground, objects included, voxel units."""

    @property
    def thing_votes(self) -> Int32[np.ndarray, "X Y Z 18"]:
        """Votes without those of the ground."""
        votes = self.static_votes + self.moved_votes
        votes[..., FIRST_GROUND : LAST_GROUND + 1] = 0
        return votes


def gather_points(
    grid: VoxelGrid,
    record: SampleRecord,
    groups: Sequence[SweepGroup],
    objects: Mapping[str, Float32[np.ndarray, "_ 3"]],
    voxel_from_anchor: Float64[np.ndarray, "4 4"],
    *,
    mirror: bool,
) -> Points:
    """Static matter and the keyframe's objects, placed in its voxels.

    Args:
        grid: in the ego frame of ``record``.
        record: the keyframe; its boxes say where the objects are.
        groups: static matter near it in time.
        objects: points of each instance over the whole scene, metres, box frame.
        voxel_from_anchor: from the positions of ``groups`` to voxel units.
        mirror: whether vehicles have their points on both sides of their boxes' x axis.
    """
    static = np.concatenate([transform_points(voxel_from_anchor, group.cells.astype(np.float64)) for group in groups])
    labels = np.concatenate([group.labels for group in groups])
    slots = np.where(labels == IGNORED, np.uint8(_IGNORED_SLOT), labels)
    counts, mirrored, votes, moved = (np.zeros((*grid.shape, size), dtype=np.int32) for size in (1, 1, _SLOTS, _SLOTS))
    _vote(votes, static, slots)
    weights = np.concatenate([group.weights for group in groups])
    add_votes(counts, static, np.eye(4), labels=np.zeros_like(slots), weights=weights)
    things = [static[~is_ground_class(labels)]]
    voxel_from_global = grid.voxel_from_metres @ invert_rigid(record.global_from_ego)
    for box in record.boxes:
        if box.instance in objects:
            points_box = objects[box.instance].astype(np.float64)
            voxel_from_box = voxel_from_global @ box.global_from_box.matrix
            things.append(transform_points(voxel_from_box, points_box))
            _vote(moved, things[-1], box.label)
            _vote(counts, things[-1], 0)
            if mirror and box.label in _SYMMETRIC:
                things.append(transform_points(voxel_from_box, points_box * (1.0, -1.0, 1.0)))
                _vote(moved, things[-1], box.label)
                _vote(mirrored, things[-1], 0)
    return Points(static, labels, votes, moved, counts[..., 0], mirrored[..., 0], np.concatenate(things))


def _vote(
    votes: Int32[np.ndarray, "X Y Z L"], points: Float64[np.ndarray, "n 3"], labels: UInt8[np.ndarray, " n"] | int
) -> None:
    own = np.broadcast_to(np.asarray(labels, dtype=np.uint8), len(points)).copy()
    add_votes(votes, points, np.eye(4), labels=own, weights=np.ones(len(points), dtype=np.int32))


def elect(
    points: Points, ground: Int32[np.ndarray, "X Y Z 4"], solid: Bool[np.ndarray, "X Y Z"]
) -> UInt8[np.ndarray, "X Y Z"]:
    """Majority per voxel, free where neither a point nor the ground's surface is.

    Ground counts by the area of its surface, and a quarter of what stands on it: LiDAR sees less than half of a thing's
    surface, and low things should not drown in the road. Ties go to the lower class, a known one before the unknown.

    Args:
        points: from `gather_points`.
        ground: samples of its surface, from `completion.ground_votes`.
        solid: voxels with enough points.
    """
    votes = 4 * (points.static_votes + points.moved_votes)
    surface = slice(FIRST_GROUND, LAST_GROUND + 1)
    sampled = ground.any(axis=3, keepdims=True)
    votes[..., surface] = np.where(sampled, ground, votes[..., surface] // 4)
    winner = votes.argmax(axis=3).astype(np.uint8)
    winner[winner == _IGNORED_SLOT] = IGNORED
    of_ground = np.where(ground.any(axis=3), ground.argmax(axis=3) + FIRST_GROUND, FREE).astype(np.uint8)
    return np.where(solid, winner, of_ground)


def count_sources(semantics: UInt8[np.ndarray, "X Y Z"], points: Points) -> dict[str, float]:
    """Occupied voxels whose class rests on boxes, on static matter, on nothing."""
    known = (semantics != FREE) & (semantics != IGNORED)
    slot = np.where(known, semantics, 0).astype(np.int64)[..., None]
    moved, static = (
        np.take_along_axis(votes, slot, axis=3)[..., 0] for votes in (points.moved_votes, points.static_votes)
    )
    by_box = known & (moved > 0)
    completed = known & (moved == 0) & (static == 0) & ~is_ground_class(semantics)
    for x, y, z in np.argwhere(completed):
        near = tuple(slice(max(i - 1, 0), i + 2) for i in (x, y, z))
        by_box[x, y, z] = points.moved_votes[(*near, semantics[x, y, z])].any()
    return {
        "voxels_occupied": float((semantics != FREE).sum()),
        "voxels_boxes": float(by_box.sum()),
        "voxels_static": float((known & ~by_box).sum()),
        "voxels_ignored": float((semantics == IGNORED).sum()),
    }
