"""What the points of one keyframe say: votes of static matter and of objects in their voxels, and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from pipelines.occupancy.accumulation import SweepGroup
from pipelines.occupancy.ballot import num_slots, slots_of, winners
from pipelines.occupancy.kernels import add_votes
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.geometry import invert_rigid, transform_points
from schemas.records import SampleRecord


@dataclass(frozen=True)
class Points:
    """What a frame's voxels hold; votes are by slot, see `ballot`."""

    static: Float64[np.ndarray, "n 3"]
    """Static points, voxel units."""
    static_labels: UInt8[np.ndarray, " n"]
    static_votes: Int32[np.ndarray, "X Y Z s"]
    """Cells of `LidarConfig.cell_m`: a surface has as many votes as it has area, however often it was measured."""
    moved_votes: Int32[np.ndarray, "X Y Z s"]
    """Cells of objects, the mirrored ones of symmetric classes included."""
    counts: Int32[np.ndarray, "X Y Z"]
    """Measured points."""
    mirrored: Int32[np.ndarray, "X Y Z"]
    """Cells of objects that were measured on their other side."""
    things: Float64[np.ndarray, "m 3"]
    """Points of anything but ground, objects included, voxel units."""

    def thing_votes(self, table: ClassTable) -> Int32[np.ndarray, "X Y Z s"]:
        """Votes without those of the ground."""
        votes = self.static_votes + self.moved_votes
        votes[..., table.labels_of(table.ground)] = 0
        return votes


def gather_points(
    dataset: DatasetSpec,
    record: SampleRecord,
    groups: Sequence[SweepGroup],
    objects: Mapping[str, Float32[np.ndarray, "_ 3"]],
    voxel_from_anchor: Float64[np.ndarray, "4 4"],
    *,
    mirror: bool,
) -> Points:
    """Static matter and the keyframe's objects, placed in its voxels.

    Args:
        dataset: grid, in the ego frame of ``record``, and class table.
        record: the keyframe; its boxes say where the objects are.
        groups: static matter near it in time.
        objects: points of each instance over the whole scene, metres, box frame.
        voxel_from_anchor: from the positions of ``groups`` to voxel units.
        mirror: whether objects of symmetric classes have their points on both sides of their boxes' x axis.
    """
    grid, table = dataset.grid, dataset.classes
    static = np.concatenate([transform_points(voxel_from_anchor, group.cells.astype(np.float64)) for group in groups])
    labels = np.concatenate([group.labels for group in groups])
    sizes = (1, 1, num_slots(table), num_slots(table))
    counts, mirrored, votes, moved = (np.zeros((*grid.shape, size), dtype=np.int32) for size in sizes)
    _vote(votes, static, slots_of(labels, table))
    weights = np.concatenate([group.weights for group in groups])
    add_votes(counts, static, np.eye(4), labels=np.zeros_like(labels), weights=weights)
    things = [static[~table.is_ground(labels)]]
    voxel_from_global = grid.voxel_from_metres @ invert_rigid(record.global_from_ego)
    symmetric = set(table.labels_of(table.symmetric).tolist())
    for box in record.boxes:
        if box.instance in objects:
            points_box = objects[box.instance].astype(np.float64)
            voxel_from_box = voxel_from_global @ box.global_from_box.matrix
            things.append(transform_points(voxel_from_box, points_box))
            _vote(moved, things[-1], box.label)
            _vote(counts, things[-1], 0)
            if mirror and box.label in symmetric:
                things.append(transform_points(voxel_from_box, points_box * (1.0, -1.0, 1.0)))
                _vote(moved, things[-1], box.label)
                _vote(mirrored, things[-1], 0)
    return Points(static, labels, votes, moved, counts[..., 0], mirrored[..., 0], np.concatenate(things))


def add_moving(
    points: Points, own: SweepGroup, voxel_from_anchor: Float64[np.ndarray, "4 4"], table: ClassTable
) -> Points:
    """The same with the keyframe's own points of moving things that have no boxes, which its votes count as objects.

    Args:
        points: from `gather_points`; its arrays of votes and counts are changed.
        own: what the keyframe itself saw.
        voxel_from_anchor: from its positions to voxel units.
        table: the classes.
    """
    if not len(own.moving):
        return points
    moving = transform_points(voxel_from_anchor, own.moving.astype(np.float64))
    _vote(points.moved_votes, moving, slots_of(own.moving_labels, table))
    _vote(points.counts[..., None], moving, 0)
    return replace(points, things=np.concatenate([points.things, moving]))


def _vote(
    votes: Int32[np.ndarray, "X Y Z s"], points: Float64[np.ndarray, "n 3"], labels: UInt8[np.ndarray, " n"] | int
) -> None:
    own = np.broadcast_to(np.asarray(labels, dtype=np.uint8), len(points)).copy()
    add_votes(votes, points, np.eye(4), labels=own, weights=np.ones(len(points), dtype=np.int32))


def elect(
    points: Points,
    ground: Int32[np.ndarray, "X Y Z g"],
    solid: Bool[np.ndarray, "X Y Z"],
    table: ClassTable,
    thing_weight: int,
) -> UInt8[np.ndarray, "X Y Z"]:
    """Label of each voxel: the class with the most votes, free where neither a point nor the ground's surface is.

    Ground counts by the area of its surface, where that was sampled. Ties go as in `ballot.winners`.

    Args:
        points: from `gather_points`.
        ground: samples of its surface, from `completion.ground_votes`.
        solid: voxels with enough points.
        table: the classes.
        thing_weight: see `LidarConfig.thing_weight`.
    """
    kinds = table.labels_of(table.ground)
    votes = thing_weight * (points.static_votes[solid] + points.moved_votes[solid])
    area = ground[solid]
    votes[:, kinds] = np.where(area.any(axis=1, keepdims=True), area, votes[:, kinds] // thing_weight)
    semantics = np.full(solid.shape, table.free, dtype=np.uint8)
    semantics[solid] = winners(votes, table)
    only_ground = ground.any(axis=3) & ~solid
    if only_ground.any():
        semantics[only_ground] = kinds[ground[only_ground].argmax(axis=1)]
    return semantics


def count_sources(semantics: UInt8[np.ndarray, "X Y Z"], points: Points, table: ClassTable) -> dict[str, float]:
    """Occupied voxels whose class rests on boxes, on static matter, on nothing."""
    occupied = table.is_occupied(semantics)
    known = occupied & (semantics != table.ignored)
    slot = np.where(known, semantics, 0).astype(np.int64)[..., None]
    moved, static = (
        np.take_along_axis(votes, slot, axis=3)[..., 0] for votes in (points.moved_votes, points.static_votes)
    )
    by_box = known & (moved > 0)
    completed = known & (moved == 0) & (static == 0) & ~table.is_ground(semantics)
    for x, y, z in np.argwhere(completed):
        near = tuple(slice(max(i - 1, 0), i + 2) for i in (x, y, z))
        by_box[x, y, z] = points.moved_votes[(*near, semantics[x, y, z])].any()
    return {
        "voxels_occupied": float(occupied.sum()),
        "voxels_boxes": float(by_box.sum()),
        "voxels_static": float((known & ~by_box).sum()),
        "voxels_ignored": float((semantics == table.ignored).sum()),
    }
