"""Exact occupancy of a generated scene: classes from the geometry itself, visibility from rays against it.

Semantics. Every surface inside the grid is covered with samples (8 cm on things, 10 cm on the ground), each standing for
its share of the area. A voxel that holds any surface takes the class with the largest area in it; equal areas go to the
smaller class number. Insides of solid things stay free, as in Occ3D, and no ray reaches them, so both masks are 0 there.

Visibility. The world is frozen at the LiDAR keyframe. `mask_lidar`: voxels that LiDAR rays pass or end in, shot from the
LiDAR positions of up to 8 keyframes of the scene (the way Occ3D accumulates sweeps); a ray without a return marks nothing.
`mask_camera`: voxels that camera rays pass or end in (rays to the sky run through the whole grid), and `mask_lidar`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8

from pipelines.synth.ground import CATEGORY_OF_CODE, code_at, compiled, height_of
from pipelines.synth.rig import CAMERAS, LIDAR, LIDAR_RANGE_M, Mount, lidar_rays, pixel_rays
from pipelines.synth.sensors import CATEGORIES, OCC3D_OF_CATEGORY, Snapshot
from pipelines.synth.texture import SKY
from pipelines.synth.world import Thing
from schemas.classes import FREE
from schemas.geometry import OCC3D_GRID, Pose, invert_rigid, transform_points

THING_SPACING_M: Final = 0.08
GROUND_SPACING_M: Final = 0.1
MAX_LIDAR_POSITIONS: Final = 8
_NUM_CLASSES: Final = FREE
_LOW: Final = np.asarray(OCC3D_GRID.minimum_m)
_CAMERA_RAYS_ACROSS: Final = 200
_SAMPLES_PER_THING: Final = 60


def semantics(snapshot: Snapshot, world_from_ego: Pose) -> UInt8[np.ndarray, "X Y Z"]:
    """Occ3D classes of the voxels around a vehicle pose, free = 17."""
    geometry = snapshot.geometry
    area_mm2 = np.zeros((*OCC3D_GRID.shape, _NUM_CLASSES), np.int32)
    ego_from_world = invert_rigid(world_from_ego)
    classes = OCC3D_OF_CATEGORY[geometry.category(np.arange(len(geometry.local_m), dtype=np.int32))]
    for first, triangles in ((0, geometry.still_m), (geometry.num_still, snapshot.moving_m)):
        corners = transform_points(ego_from_world, triangles.reshape(-1, 3).astype(np.float64)).reshape(-1, 3, 3)
        _cover_triangles(area_mm2, corners, classes[first : first + len(triangles)], _LOW, OCC3D_GRID.voxel_size_m)
    of_code = OCC3D_OF_CATEGORY[[CATEGORIES.index(name) for name in CATEGORY_OF_CODE]]
    _cover_ground(area_mm2, geometry.world.ground, of_code, world_from_ego, _LOW, OCC3D_GRID.voxel_size_m)
    best = area_mm2.argmax(axis=-1).astype(np.uint8)
    return np.where(area_mm2.max(axis=-1) > 0, best, np.uint8(FREE))


@compiled
def _cover_triangles(
    area_mm2: Int32[np.ndarray, "X Y Z c"],
    corners_ego: Float[np.ndarray, "t 3 3"],
    classes: UInt8[np.ndarray, " t"],
    low_m: Float[np.ndarray, " 3"],
    voxel_m: float,
) -> None:
    """Adds the area of triangles to the voxels they lie in; samples are the cells of a grid along two edges."""
    shape = area_mm2.shape
    for t in range(len(corners_ego)):
        a, b, c = corners_ego[t, 0], corners_ego[t, 1], corners_ego[t, 2]
        outside = False
        for k in range(3):
            high = low_m[k] + shape[k] * voxel_m
            outside |= max(a[k], b[k], c[k]) < low_m[k] or min(a[k], b[k], c[k]) > high
        if outside:
            continue
        ab, ac = b - a, c - a
        n = max(1, int(np.ceil(np.sqrt(np.sum(ab * ab)) / THING_SPACING_M)))
        m = max(1, int(np.ceil(np.sqrt(np.sum(ac * ac)) / THING_SPACING_M)))
        cross = np.cross(ab, ac)
        share = int(1e6 * np.sqrt(np.sum(cross * cross)) / (n * m)) + 1
        for i in range(n):
            for j in range(m):
                u, v = (i + 0.5) / n, (j + 0.5) / m
                if u + v > 1.0:
                    continue
                x = int(np.floor((a[0] + u * ab[0] + v * ac[0] - low_m[0]) / voxel_m))
                y = int(np.floor((a[1] + u * ab[1] + v * ac[1] - low_m[1]) / voxel_m))
                z = int(np.floor((a[2] + u * ab[2] + v * ac[2] - low_m[2]) / voxel_m))
                if 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]:
                    area_mm2[x, y, z, classes[t]] += share


@compiled
def _cover_ground(
    area_mm2: Int32[np.ndarray, "X Y Z c"],
    ground: UInt8[np.ndarray, "h w"],
    class_of_code: UInt8[np.ndarray, " g"],
    world_from_ego: Float[np.ndarray, "4 4"],
    low_m: Float[np.ndarray, " 3"],
    voxel_m: float,
) -> None:
    """Adds the area of the ground to the voxels it lies in; the vehicle stands level at height 0."""
    per_voxel = int(round(voxel_m / GROUND_SPACING_M))
    step = voxel_m / per_voxel
    share = int(1e6 * step * step)
    for i in range(area_mm2.shape[0] * per_voxel):
        for j in range(area_mm2.shape[1] * per_voxel):
            x, y = low_m[0] + (i + 0.5) * step, low_m[1] + (j + 0.5) * step
            code = code_at(
                ground,
                world_from_ego[0, 0] * x + world_from_ego[0, 1] * y + world_from_ego[0, 3],
                world_from_ego[1, 0] * x + world_from_ego[1, 1] * y + world_from_ego[1, 3],
            )
            z = int(np.floor((height_of(code) - low_m[2]) / voxel_m))
            area_mm2[i // per_voxel, j // per_voxel, z, class_of_code[code]] += share


def visibility(
    snapshot: Snapshot, rig: dict[str, Mount], poses: dict[str, Pose], lidar_poses: list[Pose], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "X Y Z"], UInt8[np.ndarray, "X Y Z"]]:
    """Voxels observed by the LiDAR and by the cameras.

    Args:
        snapshot: the world at the LiDAR keyframe.
        rig: mounts by channel.
        poses: ``world_from_ego`` of each channel's own exposure.
        lidar_poses: ``world_from_lidar`` of the scene's keyframes, in order of time.
        size: width and height of the images, pixels.

    Returns:
        mask_lidar and mask_camera, 0 or 1; the second lies inside the first.
    """
    ego_from_world = invert_rigid(poses[LIDAR])
    seen_lidar = np.zeros(OCC3D_GRID.shape, np.uint8)
    own = poses[LIDAR] @ rig[LIDAR].ego_from_sensor
    for world_from_lidar in [own, *_spread(lidar_poses, ego_from_world)]:
        rays = lidar_rays() @ world_from_lidar[:3, :3].T.astype(np.float32)
        _mark(seen_lidar, snapshot, world_from_lidar[:3, 3], rays, ego_from_world, LIDAR_RANGE_M, sky_m=0.0)
    seen_camera = np.zeros(OCC3D_GRID.shape, np.uint8)
    for channel in CAMERAS:
        intrinsics = rig[channel].image_from_camera
        if intrinsics is None:
            continue
        pose = poses[channel] @ rig[channel].ego_from_sensor
        rays = pixel_rays(intrinsics, *size, stride=max(1, size[0] // _CAMERA_RAYS_ACROSS))
        rays = rays @ pose[:3, :3].T.astype(np.float32)
        _mark(seen_camera, snapshot, pose[:3, 3], rays, ego_from_world, np.inf, sky_m=200.0)
    return seen_lidar, seen_camera & seen_lidar


def _spread(lidar_poses: list[Pose], ego_from_world: Pose) -> list[Pose]:
    """At most `MAX_LIDAR_POSITIONS` poses inside the grid, evenly spread over time."""
    positions = transform_points(ego_from_world, np.array([pose[:3, 3] for pose in lidar_poses]))
    inside = [pose for pose, p in zip(lidar_poses, positions, strict=True) if max(abs(p[0]), abs(p[1])) < 39.0]
    if len(inside) <= MAX_LIDAR_POSITIONS:
        return inside
    return [inside[round(i)] for i in np.linspace(0, len(inside) - 1, MAX_LIDAR_POSITIONS)]


def _mark(
    seen: UInt8[np.ndarray, "X Y Z"],
    snapshot: Snapshot,
    origin_m: Float[np.ndarray, " 3"],
    rays: Float32[np.ndarray, "n 3"],
    ego_from_world: Pose,
    range_m: float,
    *,
    sky_m: float,
) -> None:
    hits = snapshot.trace(origin_m, rays)
    length = np.where(hits.surface == SKY, sky_m, np.where(hits.distance_m < range_m, hits.distance_m, 0.0))
    kept = length > 0
    ends = origin_m + rays[kept].astype(np.float64) * length[kept, None]
    start = transform_points(ego_from_world, origin_m[None])[0]
    _traverse(seen, start, transform_points(ego_from_world, ends), _LOW, OCC3D_GRID.voxel_size_m)


@compiled
def _traverse(
    seen: UInt8[np.ndarray, "X Y Z"],
    start_m: Float[np.ndarray, " 3"],
    ends_m: Float[np.ndarray, "n 3"],
    low_m: Float[np.ndarray, " 3"],
    voxel_m: float,
) -> None:
    """Marks each voxel on the segments from ``start_m`` (inside the grid) to each end (Amanatides and Woo 1987)."""
    cell, step = np.empty(3, np.int64), np.empty(3, np.int64)
    until, delta = np.empty(3), np.empty(3)
    for i in range(len(ends_m)):
        for k in range(3):
            way = (ends_m[i, k] - start_m[k]) / voxel_m
            at = (start_m[k] - low_m[k]) / voxel_m
            cell[k] = int(np.floor(at))
            step[k] = 1 if way > 0 else -1
            delta[k] = abs(1.0 / way) if way != 0 else np.inf
            edge = cell[k] + 1 - at if way > 0 else at - cell[k]
            until[k] = edge * delta[k] if way != 0 else np.inf
        while 0 <= cell[0] < seen.shape[0] and 0 <= cell[1] < seen.shape[1] and 0 <= cell[2] < seen.shape[2]:
            seen[cell[0], cell[1], cell[2]] = 1
            k = int(np.argmin(until))
            if until[k] > 1.0:
                break
            cell[k] += step[k]
            until[k] += delta[k]


def visible_shares(snapshot: Snapshot, things: list[Thing], eye_m: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " n"]:
    """Share of each thing's outline that nothing else hides from ``eye_m``.

    Rays go to points spread over its triangles; a ray that meets the thing anywhere counts as a view of it.
    """
    geometry = snapshot.geometry
    world_m = np.concatenate([geometry.still_m, snapshot.moving_m])
    owner = geometry.number
    chosen: list[Int64[np.ndarray, " s"]] = []
    for thing in things:
        own = np.flatnonzero(owner == thing.number)
        chosen.append(own[:: max(1, len(own) // _SAMPLES_PER_THING)])
    counts = [len(indices) for indices in chosen]
    targets = world_m[np.concatenate(chosen)].mean(axis=1) - eye_m
    rays = (targets / np.linalg.norm(targets, axis=1, keepdims=True)).astype(np.float32)
    met = geometry.thing_number(snapshot.trace(eye_m, rays).surface) == np.repeat([t.number for t in things], counts)
    starts = np.cumsum([0, *counts[:-1]])
    shares: Float[np.ndarray, " n"] = np.add.reduceat(met.astype(np.float64), starts) / counts
    return shares
