"""Voxels of a generated scan in SemanticKITTI's terms, from the geometry itself.

Surfaces fill voxels as in `pipelines.synth.truth`, with raw ids for classes. Of those, a voxel has a label if exact
rays of the sequence's scans, without noise and loss, end in it; what moves counts in this very scan alone.
`.occluded` and `.invalid` follow the official rule (`schemas.voxels.sight`) with all surfaces in the way, labelled or
not: occluded is what this scan's place does not see, and whatever is occupied; invalid is what no scan's place sees
and has no label. A surface that no ray met is 0 and invalid, so what is scored holds no false emptiness. The official
voxels, made of points, have emptiness there, and trails of what moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt16

from pipelines.synth.kitti.raw_ids import RawIds
from pipelines.synth.observed import Turn
from pipelines.synth.sensors import Snapshot
from pipelines.synth.truth import Cells, cover_ground, cover_things
from schemas.geometry import SEMANTICKITTI_GRID, Pose, invert_rigid, transform_points
from schemas.voxels.sight import reveal

_GRID = SEMANTICKITTI_GRID


@dataclass(frozen=True)
class Voxels:
    """What the files of a scan in `voxels/` hold."""

    labels: UInt16[np.ndarray, "X Y Z"]
    """Raw ids; 0: empty, or invalid."""
    invalid: Bool[np.ndarray, "X Y Z"]
    occluded: Bool[np.ndarray, "X Y Z"]


def fill_voxels(snapshot: Snapshot, raw_ids: RawIds, world_from_lidar: Pose) -> UInt16[np.ndarray, "X Y Z"]:
    """Raw id of the voxels that surfaces fill, seen or not; 0 elsewhere."""
    area_mm2 = np.zeros((*_GRID.shape, len(raw_ids.ids)), np.int32)
    cells = Cells(area_mm2, np.asarray(_GRID.minimum_m), _GRID.voxel_size_m)
    geometry, lidar_from_world = snapshot.geometry, invert_rigid(world_from_lidar)
    cover_ground(cells, geometry.world.ground, geometry.world.hills, raw_ids.of_ground, world_from_lidar)
    cover_things(cells, lidar_from_world, geometry.still_m, raw_ids.of_triangle[: geometry.num_still])
    cover_things(cells, lidar_from_world, snapshot.moving_m, raw_ids.of_triangle[geometry.num_still :])
    filled: UInt16[np.ndarray, "X Y Z"] = raw_ids.ids[area_mm2.argmax(axis=-1)]
    filled[area_mm2.max(axis=-1) == 0] = 0
    return filled


def hit_voxels(
    voxel_from_world: Float[np.ndarray, "4 4"], turns: Sequence[Turn], own: int
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that rays end in: of this scan all, of the others those that end on still matter.

    Args:
        voxel_from_world: of the scan whose voxels these are.
        turns: of the whole sequence.
        own: which of them is that scan's.
    """
    hit = np.zeros(_GRID.shape, bool)
    for number, turn in enumerate(turns):
        ends = turn.ends_m if number == own else turn.ends_m[turn.on_still]
        index = np.floor(transform_points(voxel_from_world, ends.astype(np.float64))).astype(np.int64)
        hit[tuple(index[_GRID.contains(index)].T)] = True
    return hit


def complete(
    filled: UInt16[np.ndarray, "X Y Z"],
    hit: Bool[np.ndarray, "X Y Z"],
    eyes: Float64[np.ndarray, "s 3"],
    own: int,
) -> Voxels:
    """Labels and both masks.

    Args:
        filled: raw ids of all voxels that surfaces fill.
        hit: voxels that rays end in.
        eyes: places of all scans of the sequence, voxel units.
        own: which of them is this scan's.
    """
    occupied = filled > 0
    labels = np.where(hit, filled, np.uint16(0))
    occluded = np.ones(_GRID.shape, bool)
    reveal(occluded, occupied, eyes[own : own + 1])
    hidden = occluded.copy()
    reveal(hidden, occupied, np.ascontiguousarray(eyes[::-1]))  # later places lie deeper in the grid
    return Voxels(labels, hidden & (labels == 0), occluded)


def input_voxels(points_lidar: Float32[np.ndarray, "n 3"]) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that hold points of a single scan: `.bin`."""
    index = _GRID.voxel_index(points_lidar.astype(np.float64))
    voxels = np.zeros(_GRID.shape, bool)
    voxels[tuple(index[_GRID.contains(index)].T)] = True
    return voxels
