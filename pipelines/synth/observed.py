"""Both masks of a generated scene, from exact rays.

mask_lidar. Observed is what the rays of all the scene's sweeps passed or ended in, as in Occ3D's algorithm 2, without
noise and without loss: each ray is cast in the world of its own time, one that returns nothing shows nothing. A ray
observes every voxel on its way and, where it ends on still matter, the last one. Where it ends on something that moves,
it observes the place of that point of the thing at the keyframe. A voxel with a moving thing's surface at the keyframe
is observed only that way or by the keyframe's own sweep: rays that passed while the thing was elsewhere say nothing.

mask_camera. Occ3D's algorithm 3 on the exact classes: from each camera, at its own exposure, a ray through every part
of the image sees all voxels up to the first occupied one. What counts lies in mask_lidar too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from pipelines.synth.rig import CAMERAS, HDL_32, LIDAR, Beams, Mount, lidar_rays
from pipelines.synth.sensors import Hits, Snapshot, is_returned
from pipelines.synth.truth import Occupancy
from schemas.classes import OCC3D
from schemas.geometry import OCC3D_GRID, Pose, invert_rigid, transform_points
from schemas.voxels.visibility import View, mark_passed, see_voxels

_RAYS_PER_VOXEL: Final = 1.5


@dataclass(frozen=True)
class Turn:
    """Where the rays of one turn of the LiDAR truly ended; rays without a return are left out."""

    time_us: int
    origin_m: Float[np.ndarray, " 3"]
    """World frame."""
    ends_m: Float32[np.ndarray, "r 3"]
    """World frame."""
    on_still: Bool[np.ndarray, " r"]
    """Whether each ray ended on something that never moves."""
    moving: Mapping[int, Float32[np.ndarray, "_ 3"]]
    """Ends on each moving thing, by its number, in its own frame."""


def turn_around(snapshot: Snapshot, world_from_lidar: Pose, time_us: int, beams: Beams = HDL_32) -> tuple[Turn, Hits]:
    """One turn of the LiDAR without noise or loss, and all its hits; ``snapshot`` is the world at that time."""
    geometry, origin = snapshot.geometry, world_from_lidar[:3, 3]
    rays = lidar_rays(beams) @ world_from_lidar[:3, :3].T.astype(np.float32)
    hits = snapshot.trace(origin, rays)
    kept = np.flatnonzero(is_returned(hits))
    ends = origin + rays[kept].astype(np.float64) * hits.distance_m[kept, None]
    surface, local = hits.surface[kept], hits.local_m[kept]
    is_moving = surface >= geometry.num_still
    number = geometry.thing_number(surface)
    moving = {int(n): local[is_moving & (number == n)] for n in np.unique(number[is_moving])}
    return Turn(time_us, origin, ends.astype(np.float32), ~is_moving, moving), hits


def observe(
    occupancy: Occupancy, world_from_ego: Pose, turns: Sequence[Turn], now_us: int, poses: Mapping[int, Pose]
) -> UInt8[np.ndarray, "X Y Z"]:
    """mask_lidar of a keyframe.

    Args:
        occupancy: classes of the voxels.
        world_from_ego: vehicle pose of the keyframe.
        turns: of the whole scene.
        now_us: time of the keyframe, which is one of the turns.
        poses: ``world_from_thing`` at the keyframe of everything that moves, by number.
    """
    voxel_from_world = OCC3D_GRID.voxel_from_metres @ invert_rigid(world_from_ego)
    still, now = np.zeros(OCC3D_GRID.shape, bool), np.zeros(OCC3D_GRID.shape, bool)
    for turn in turns:
        origin = transform_points(voxel_from_world, turn.origin_m[None])[0]
        ends = transform_points(voxel_from_world, turn.ends_m.astype(np.float64))
        mark_passed(still, origin, ends, turn.on_still)
        if turn.time_us == now_us:
            mark_passed(now, origin, ends, np.ones(len(ends), bool))
        for number, local in turn.moving.items():
            points = transform_points(voxel_from_world @ poses[number], local.astype(np.float64))
            index = np.floor(points).astype(np.int64)
            now[tuple(index[OCC3D_GRID.contains(index)].T)] = True
    return np.where(occupancy.is_moving, now, still | now).astype(np.uint8)


def see(occupancy: Occupancy, rig: Mapping[str, Mount], poses: Mapping[str, Pose]) -> UInt8[np.ndarray, "X Y Z"]:
    """What the cameras see of the exact classes.

    Args:
        occupancy: classes of the voxels.
        rig: mounts by channel.
        poses: ``world_from_ego`` of each channel's own exposure; the LiDAR's is the frame of the voxels.
    """
    views = []
    for channel in CAMERAS:
        mount = rig[channel]
        if mount.image_from_camera is None or mount.image_size is None:
            raise ValueError(f"{channel} is no camera")
        ego_from_camera = invert_rigid(poses[LIDAR]) @ poses[channel] @ mount.ego_from_sensor
        views.append(View(mount.image_from_camera, *mount.image_size, ego_from_camera))
    return see_voxels(OCC3D_GRID, OCC3D.is_occupied(occupancy.semantics), views, _RAYS_PER_VOXEL).astype(np.uint8)
