"""Exact occupancy of a generated scene, from the geometry itself.

Every surface inside the grid is covered with samples (8 cm on things, 10 cm on the ground; closer for voxels below
0.4 m), each standing for its share of the area; ground counts half, so that low things do not drown in the road they
stand on. A voxel that holds any surface takes the class with the largest area in it, the smaller number if equal.
Insides of solid things stay free, as in Occ3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from pipelines.synth.ground import CATEGORY_OF_CODE, KERB_M, Hills, code_at, compiled, height_of, rise_at
from pipelines.synth.sensors import CATEGORIES, OCC3D_OF_CATEGORY, Snapshot
from pipelines.synth.world import Thing
from schemas.classes import OCC3D
from schemas.geometry import OCC3D_GRID, Pose, invert_rigid, transform_points

THING_SPACING_M: Final = 0.08
"""At most; a fifth of a voxel where that is less."""
GROUND_SPACING_M: Final = 0.1
"""At most; a quarter of a voxel where that is less."""
_LOW: Final = np.asarray(OCC3D_GRID.minimum_m)
_SAMPLES_PER_THING: Final = 60


@dataclass(frozen=True)
class Occupancy:
    """Classes of the voxels around a vehicle pose."""

    semantics: UInt8[np.ndarray, "X Y Z"]
    """Classes of `OCC3D`."""
    is_moving: Bool[np.ndarray, "X Y Z"]
    """Whether surface of the class belongs to something that moves."""


class Cells(NamedTuple):
    """Voxels that surfaces are counted in."""

    area_mm2: Int32[np.ndarray, "X Y Z c"]
    """Area of each class."""
    low_m: Float[np.ndarray, " 3"]
    """Lower corner of the grid, ego frame."""
    voxel_m: float


def voxelise(snapshot: Snapshot, world_from_ego: Pose) -> Occupancy:
    """Classes of the voxels around a vehicle pose, from every surface of the world."""
    geometry = snapshot.geometry
    area_mm2 = np.zeros((*OCC3D_GRID.shape, OCC3D.num_classes), np.int32)
    ego_from_world = invert_rigid(world_from_ego)
    classes = OCC3D_OF_CATEGORY[geometry.category(np.arange(len(geometry.local_m), dtype=np.int32))]
    of_code = OCC3D_OF_CATEGORY[[CATEGORIES.index(name) for name in CATEGORY_OF_CODE]]
    world = geometry.world
    cells = Cells(area_mm2, _LOW, OCC3D_GRID.voxel_size_m)
    cover_ground(cells, world.ground, world.hills, of_code, world_from_ego)
    cover_things(cells, ego_from_world, geometry.still_m, classes[: geometry.num_still])
    moving_mm2 = np.zeros_like(area_mm2)
    moving = cells._replace(area_mm2=moving_mm2)
    cover_things(moving, ego_from_world, snapshot.moving_m, classes[geometry.num_still :])
    area_mm2 += moving_mm2
    best = area_mm2.argmax(axis=-1).astype(np.uint8)
    is_free = area_mm2.max(axis=-1) == 0
    is_moving = np.take_along_axis(moving_mm2, best[..., None].astype(np.int64), axis=-1)[..., 0] > 0
    return Occupancy(np.where(is_free, np.uint8(OCC3D.free), best), is_moving)


def cover_things(
    cells: Cells,
    ego_from_world: Pose,
    triangles_world: Float32[np.ndarray, "t 3 3"],
    classes: UInt8[np.ndarray, " t"],
) -> None:
    """Adds the area of triangles of the world to the voxels they lie in."""
    corners = transform_points(ego_from_world, triangles_world.reshape(-1, 3).astype(np.float64)).reshape(-1, 3, 3)
    cover_triangles(cells, corners, classes)


@compiled
def cover_triangles(cells: Cells, corners_ego: Float[np.ndarray, "t 3 3"], classes: UInt8[np.ndarray, " t"]) -> None:
    """Adds the area of triangles to the voxels they lie in; samples are the cells of a grid along two edges."""
    area_mm2, low_m, voxel_m = cells
    shape = area_mm2.shape
    spacing_m = min(THING_SPACING_M, voxel_m / 5)
    for t in range(len(corners_ego)):
        a, b, c = corners_ego[t, 0], corners_ego[t, 1], corners_ego[t, 2]
        outside = False
        for k in range(3):
            high = low_m[k] + shape[k] * voxel_m
            outside |= max(a[k], b[k], c[k]) < low_m[k] or min(a[k], b[k], c[k]) > high
        if outside:
            continue
        ab, ac = b - a, c - a
        n = max(1, int(np.ceil(np.sqrt(np.sum(ab * ab)) / spacing_m)))
        m = max(1, int(np.ceil(np.sqrt(np.sum(ac * ac)) / spacing_m)))
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
                    area_mm2[x, y, z, classes[t]] += own


@compiled
def cover_ground(
    cells: Cells,
    ground: UInt8[np.ndarray, "h w"],
    hills: Hills,
    class_of_code: UInt8[np.ndarray, " g"],
    world_from_ego: Float[np.ndarray, "4 4"],
) -> None:
    """Adds the area of the ground, the upright faces of kerbs included."""
    area_mm2, low_m, voxel_m = cells
    per_voxel = max(4, int(round(voxel_m / GROUND_SPACING_M)))
    step = voxel_m / per_voxel
    share = int(0.5e6 * step * step)
    m = world_from_ego
    z = 0.0
    for i in range(area_mm2.shape[0] * per_voxel):
        for j in range(area_mm2.shape[1] * per_voxel):
            x, y = low_m[0] + (i + 0.5) * step, low_m[1] + (j + 0.5) * step
            code = 0
            for _ in range(2):  # the vehicle leans, so a column passes its ground beside the column before
                wx = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
                wy = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
                wz = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
                code = code_at(ground, wx, wy)
                z += rise_at(hills, wx, wy) + height_of(code) - wz
            level = int(np.floor((z - low_m[2]) / voxel_m))
            if level < 0 or level >= area_mm2.shape[2]:
                continue
            own = share
            if height_of(code) > 0.0:
                for dx, dy in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)):
                    if height_of(code_at(ground, wx + dx, wy + dy)) == 0.0:
                        own += int(share * KERB_M / step)
            area_mm2[i // per_voxel, j // per_voxel, level, class_of_code[code]] += own


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
