"""Exact occupancy of a generated scene: classes from the geometry itself, visibility from rays against it.

Semantics. Every surface inside the grid is covered with samples (8 cm on things, 10 cm on the ground), each standing
for its share of the area; ground counts half, so that low things do not drown in the road they stand on. A voxel that
holds any surface takes the class with the largest area in it, the smaller number if equal. Insides of solid things stay
free, as in Occ3D; no ray gets there, so both masks are 0.

Visibility. The world is frozen at the LiDAR keyframe. The LiDAR looks from its positions at up to 8 keyframes of the
scene, the way Occ3D accumulates sweeps, the cameras from their own exposures. An occupied voxel is seen if a ray of the
sensor ends in it or passes it, or if a sample of its surface lies in the field of view with nothing before it. A free
voxel is seen by the LiDAR if at least `FREE_RAYS` of its rays pass (a ray without a return passes nothing), by the
cameras if one of theirs does. `mask_camera` is what cameras and LiDAR both see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from pipelines.synth.ground import CATEGORY_OF_CODE, KERB_M, code_at, compiled, height_of
from pipelines.synth.rig import BEAM_LIMITS_DEG, CAMERAS, LIDAR, LIDAR_RANGE_M, Mount, lidar_rays, pixel_rays
from pipelines.synth.sensors import CATEGORIES, OCC3D_OF_CATEGORY, Snapshot
from pipelines.synth.texture import SKY
from pipelines.synth.world import Thing
from schemas.classes import FREE
from schemas.geometry import OCC3D_GRID, Pose, invert_rigid, project_points, transform_points

THING_SPACING_M: Final = 0.08
GROUND_SPACING_M: Final = 0.1
MAX_LIDAR_POSITIONS: Final = 8
FREE_RAYS: Final = 16
_NUM_CLASSES: Final = FREE
_LOW: Final = np.asarray(OCC3D_GRID.minimum_m)
_CAMERA_RAYS_ACROSS: Final = 200
_SAMPLES_PER_THING: Final = 60


@dataclass(frozen=True)
class Occupancy:
    """Classes of the voxels around a vehicle pose."""

    semantics: UInt8[np.ndarray, "X Y Z"]
    """Occ3D class, free = 17."""
    samples_ego: Float32[np.ndarray, "X Y Z 2 3"]
    """Two points on the surfaces of each occupied voxel, metres, ego frame."""


def voxelise(snapshot: Snapshot, world_from_ego: Pose) -> Occupancy:
    """Classes of the voxels around a vehicle pose, from every surface of the world."""
    geometry = snapshot.geometry
    area_mm2 = np.zeros((*OCC3D_GRID.shape, _NUM_CLASSES), np.int32)
    samples_ego = np.zeros((*OCC3D_GRID.shape, 2, 3), np.float32)
    ego_from_world = invert_rigid(world_from_ego)
    classes = OCC3D_OF_CATEGORY[geometry.category(np.arange(len(geometry.local_m), dtype=np.int32))]
    for first, triangles in ((0, geometry.still_m), (geometry.num_still, snapshot.moving_m)):
        corners = transform_points(ego_from_world, triangles.reshape(-1, 3).astype(np.float64)).reshape(-1, 3, 3)
        own = classes[first : first + len(triangles)]
        _cover_triangles(area_mm2, samples_ego, corners, own, _LOW, OCC3D_GRID.voxel_size_m)
    of_code = OCC3D_OF_CATEGORY[[CATEGORIES.index(name) for name in CATEGORY_OF_CODE]]
    ground = geometry.world.ground
    _cover_ground(area_mm2, samples_ego, ground, of_code, world_from_ego, _LOW, OCC3D_GRID.voxel_size_m)
    best = area_mm2.argmax(axis=-1).astype(np.uint8)
    is_free = area_mm2.max(axis=-1) == 0
    return Occupancy(np.where(is_free, np.uint8(FREE), best), samples_ego)


@compiled
def _add(
    area_mm2: Int32[np.ndarray, "X Y Z c"],
    samples_ego: Float32[np.ndarray, "X Y Z 2 3"],
    cell: tuple[int, int, int],
    point: tuple[float, float, float],
    label: int,
    share: int,
) -> None:
    """Adds a sample to its voxel, which remembers the first and the last point."""
    x, y, z = cell
    is_first = np.sum(area_mm2[x, y, z]) == 0
    area_mm2[x, y, z, label] += share
    for k in range(3):
        samples_ego[x, y, z, 1, k] = point[k]
        if is_first:
            samples_ego[x, y, z, 0, k] = point[k]


@compiled
def _cover_triangles(
    area_mm2: Int32[np.ndarray, "X Y Z c"],
    samples_ego: Float32[np.ndarray, "X Y Z 2 3"],
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
                if u + v > 1.0 + 1e-9:
                    continue
                own = share if u + v < 1.0 - 1e-9 else share // 2
                p = (a[0] + u * ab[0] + v * ac[0], a[1] + u * ab[1] + v * ac[1], a[2] + u * ab[2] + v * ac[2])
                x = int(np.floor((p[0] - low_m[0]) / voxel_m))
                y = int(np.floor((p[1] - low_m[1]) / voxel_m))
                z = int(np.floor((p[2] - low_m[2]) / voxel_m))
                if 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]:
                    _add(area_mm2, samples_ego, (x, y, z), p, classes[t], own)


@compiled
def _cover_ground(
    area_mm2: Int32[np.ndarray, "X Y Z c"],
    samples_ego: Float32[np.ndarray, "X Y Z 2 3"],
    ground: UInt8[np.ndarray, "h w"],
    class_of_code: UInt8[np.ndarray, " g"],
    world_from_ego: Float[np.ndarray, "4 4"],
    low_m: Float[np.ndarray, " 3"],
    voxel_m: float,
) -> None:
    """Adds the area of the ground, the upright faces of kerbs included; the vehicle stands level at height 0."""
    per_voxel = int(round(voxel_m / GROUND_SPACING_M))
    step = voxel_m / per_voxel
    share = int(0.5e6 * step * step)
    for i in range(area_mm2.shape[0] * per_voxel):
        for j in range(area_mm2.shape[1] * per_voxel):
            x, y = low_m[0] + (i + 0.5) * step, low_m[1] + (j + 0.5) * step
            wx = world_from_ego[0, 0] * x + world_from_ego[0, 1] * y + world_from_ego[0, 3]
            wy = world_from_ego[1, 0] * x + world_from_ego[1, 1] * y + world_from_ego[1, 3]
            code = code_at(ground, wx, wy)
            own = share
            if height_of(code) > 0.0:
                for dx, dy in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)):
                    if height_of(code_at(ground, wx + dx, wy + dy)) == 0.0:
                        own += int(share * KERB_M / step)
            height = height_of(code)
            cell = (i // per_voxel, j // per_voxel, int(np.floor((height - low_m[2]) / voxel_m)))
            _add(area_mm2, samples_ego, cell, (x, y, height), class_of_code[code], own)


def visibility(
    occupancy: Occupancy,
    snapshot: Snapshot,
    rig: dict[str, Mount],
    poses: dict[str, Pose],
    lidar_poses: list[Pose],
) -> tuple[UInt8[np.ndarray, "X Y Z"], UInt8[np.ndarray, "X Y Z"]]:
    """Voxels observed by the LiDAR and by the cameras.

    Args:
        occupancy: classes of the voxels and points on their surfaces.
        snapshot: the world at the LiDAR keyframe.
        rig: mounts by channel.
        poses: ``world_from_ego`` of each channel's own exposure.
        lidar_poses: ``world_from_lidar`` of the scene's keyframes, in order of time.

    Returns:
        mask_lidar and mask_camera, 0 or 1; the second lies inside the first.
    """
    ego_from_world = invert_rigid(poses[LIDAR])
    is_occupied = occupancy.semantics != FREE
    passes = np.zeros(OCC3D_GRID.shape, np.int32)
    own = poses[LIDAR] @ rig[LIDAR].ego_from_sensor
    for pose in [own, *_spread(lidar_poses, ego_from_world)]:
        _count_rays(passes, snapshot, pose, lidar_rays(), ego_from_world, (LIDAR_RANGE_M, 0.0))
        _look(passes, occupancy, snapshot, pose, ego_from_world, _in_beams)
    by_lidar = passes >= np.where(is_occupied, 1, FREE_RAYS)
    passes = np.zeros(OCC3D_GRID.shape, np.int32)
    for channel in CAMERAS:
        view = _View(rig[channel])
        pose = poses[channel] @ rig[channel].ego_from_sensor
        _count_rays(passes, snapshot, pose, view.rays(), ego_from_world, (np.inf, 200.0))
        _look(passes, occupancy, snapshot, pose, ego_from_world, view.contains)
    return by_lidar.astype(np.uint8), (by_lidar & (passes > 0)).astype(np.uint8)


def _in_beams(points_lidar: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Whether points lie in range and between the lowest and the highest beam."""
    pitch_deg = np.degrees(np.arctan2(points_lidar[:, 2], np.linalg.norm(points_lidar[:, :2], axis=1)))
    is_near = np.linalg.norm(points_lidar, axis=1) < LIDAR_RANGE_M
    return np.asarray(is_near & (pitch_deg > BEAM_LIMITS_DEG[0]) & (pitch_deg < BEAM_LIMITS_DEG[1]))


class _View:
    """Field of view of a camera, independent of the size of its images: 200 x 113 rays."""

    def __init__(self, mount: Mount) -> None:
        intrinsics = mount.image_from_camera
        if intrinsics is None or mount.image_size is None:
            raise ValueError(f"{mount.channel} is no camera")
        self._size = (_CAMERA_RAYS_ACROSS, round(_CAMERA_RAYS_ACROSS * mount.image_size[1] / mount.image_size[0]))
        self._intrinsics = np.diag([self._size[0] / mount.image_size[0]] * 2 + [1.0]) @ intrinsics

    def rays(self) -> Float32[np.ndarray, "n 3"]:
        """Unit vectors, camera frame."""
        return pixel_rays(self._intrinsics, *self._size)

    def contains(self, points_camera: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether points fall into the image."""
        uv, depth = project_points(self._intrinsics, points_camera)
        return np.asarray((depth > 0.1) & np.all((uv >= 0) & (uv < self._size), axis=1))


def _spread(lidar_poses: list[Pose], ego_from_world: Pose) -> list[Pose]:
    """At most `MAX_LIDAR_POSITIONS` poses inside the grid, evenly spread over time."""
    positions = transform_points(ego_from_world, np.array([pose[:3, 3] for pose in lidar_poses]))
    inside = [pose for pose, p in zip(lidar_poses, positions, strict=True) if max(abs(p[0]), abs(p[1])) < 39.0]
    if len(inside) <= MAX_LIDAR_POSITIONS:
        return inside
    return [inside[round(i)] for i in np.linspace(0, len(inside) - 1, MAX_LIDAR_POSITIONS)]


def _count_rays(
    passes: Int32[np.ndarray, "X Y Z"],
    snapshot: Snapshot,
    world_from_sensor: Pose,
    rays_sensor: Float32[np.ndarray, "n 3"],
    ego_from_world: Pose,
    reach_m: tuple[float, float],
) -> None:
    """Counts the rays through each voxel; ``reach_m``: farthest return, and length of a ray that meets nothing."""
    origin = world_from_sensor[:3, 3]
    rays = rays_sensor @ world_from_sensor[:3, :3].T.astype(np.float32)
    hits = snapshot.trace(origin, rays)
    length = np.where(hits.surface == SKY, reach_m[1], np.where(hits.distance_m < reach_m[0], hits.distance_m, 0.0))
    kept = length > 0
    ends = transform_points(ego_from_world, origin + rays[kept].astype(np.float64) * length[kept, None])
    _traverse(passes, transform_points(ego_from_world, origin[None])[0], ends, _LOW, OCC3D_GRID.voxel_size_m)


def _look(
    passes: Int32[np.ndarray, "X Y Z"],
    occupancy: Occupancy,
    snapshot: Snapshot,
    world_from_sensor: Pose,
    ego_from_world: Pose,
    contains: Callable[[Float[np.ndarray, "n 3"]], Bool[np.ndarray, " n"]],
) -> None:
    """Counts a view of each occupied voxel without one, where a sample of its surface is in sight of the sensor."""
    origin = world_from_sensor[:3, 3]
    world_from_ego = invert_rigid(ego_from_world)
    for sample in (0, 1):
        cells = np.flatnonzero((occupancy.semantics != FREE) & (passes == 0))
        points = occupancy.samples_ego[..., sample, :].reshape(-1, 3)[cells].astype(np.float64)
        points = transform_points(world_from_ego, points)
        is_inside = contains(transform_points(invert_rigid(world_from_sensor), points))
        cells, targets = cells[is_inside], points[is_inside] - origin
        distance = np.linalg.norm(targets, axis=1)
        hits = snapshot.trace(origin, (targets / distance[:, None]).astype(np.float32))
        passes.reshape(-1)[cells[hits.distance_m > distance - 0.05]] += 1


@compiled
def _traverse(
    passes: Int32[np.ndarray, "X Y Z"],
    start_m: Float[np.ndarray, " 3"],
    ends_m: Float[np.ndarray, "n 3"],
    low_m: Float[np.ndarray, " 3"],
    voxel_m: float,
) -> None:
    """Counts each segment in the voxels it meets, from ``start_m`` to each end.

    ``start_m`` lies inside the grid. Amanatides and Woo 1987, "A fast voxel traversal algorithm for ray tracing".
    """
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
        while 0 <= cell[0] < passes.shape[0] and 0 <= cell[1] < passes.shape[1] and 0 <= cell[2] < passes.shape[2]:
            passes[cell[0], cell[1], cell[2]] += 1
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
