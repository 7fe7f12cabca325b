"""What the sensors see: rays against the world, camera images with their truth, LiDAR clouds with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Float32, Int32, UInt8, UInt16

from pipelines.synth.ground import CATEGORY_OF_CODE, PAINT_MARK, Hills, compiled, hit_ground
from pipelines.synth.rig import HDL_32, LIDAR_NEAR_M, LIDAR_RANGE_M, Beams, Mount, lidar_rays, pixel_rays
from pipelines.synth.texture import GROUND, SKY, Coat, Daylight, Seen, shade
from pipelines.synth.world import Thing, World
from schemas.classes import NUSCENES_CATEGORIES, OCC3D
from schemas.geometry import Pose, transform_points

CATEGORIES: Final = tuple(NUSCENES_CATEGORIES)
"""The 32 lidarseg categories; a point's label is the position here."""
OCC3D_OF_CATEGORY: Final[UInt8[np.ndarray, " k"]] = np.append(
    OCC3D.labels_of(tuple(NUSCENES_CATEGORIES.values())), np.uint8(OCC3D.free)
)
"""Class of each category in `OCC3D`; the last entry is the sky, which is free."""
TRUTH_BASE: Final = 2048
"""A pixel of a truth image is class * TRUTH_BASE + number of the thing."""
_SKY_CATEGORY: Final = len(CATEGORIES)
_SHIFT: Final = 16
"""Lookup tables are indexed with surface + _SHIFT: ground and sky come before the triangles."""


@dataclass(frozen=True)
class Hits:
    """First thing on each ray."""

    surface: Int32[np.ndarray, " n"]
    distance_m: Float32[np.ndarray, " n"]
    local_m: Float32[np.ndarray, "n 3"]
    """Hit point in the frame of the thing; of the world on the ground."""
    normal: Float32[np.ndarray, "n 3"]
    """Unit vector towards the sensor, world frame."""


class Geometry:
    """All triangles of a world and the ray tracer's tree of the still ones."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.things: tuple[Thing, ...] = tuple(sorted(world.things, key=lambda thing: thing.track is not None))
        shapes = [thing.shape for thing in self.things]
        counts = [len(shape.triangles) for shape in shapes]
        self.local_m = np.concatenate([shape.triangles for shape in shapes])
        self.material = np.concatenate([shape.material for shape in shapes])
        self.color = np.concatenate([shape.color for shape in shapes])
        self.number = np.repeat([thing.number for thing in self.things], counts).astype(np.int32)
        category = np.repeat([CATEGORIES.index(thing.category) for thing in self.things], counts)
        edges = self.local_m[:, 1:] - self.local_m[:, :1]
        self.axis = np.abs(np.cross(edges[:, 0], edges[:, 1])).argmax(axis=1).astype(np.uint8)
        self.num_still = sum(len(thing.shape.triangles) for thing in self.things if thing.track is None)
        front = np.full(_SHIFT, _SKY_CATEGORY)
        for code, name in enumerate(CATEGORY_OF_CODE):
            front[GROUND - code + _SHIFT] = CATEGORIES.index(name)
        self._category = np.concatenate([front, category]).astype(np.uint8)
        self._number = np.concatenate([np.zeros(_SHIFT, np.int32), self.number])
        self.still_m = self._placed([thing for thing in self.things if thing.track is None], 0.0)
        self.still_scene = _scene(self.still_m)

    def _placed(self, things: list[Thing], time_s: float) -> Float32[np.ndarray, "t 3 3"]:
        parts = [_transform(self.world.pose(thing, time_s), thing.shape.triangles) for thing in things]
        return np.concatenate(parts) if parts else np.zeros((0, 3, 3), np.float32)

    def at(self, time_s: float) -> Snapshot:
        """The world at a time."""
        return Snapshot(self, self._placed([thing for thing in self.things if thing.track is not None], time_s))

    def category(self, surface: Int32[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Category index of each hit; the sky comes after the last of `CATEGORIES`."""
        return self._category[surface + _SHIFT]

    def thing_number(self, surface: Int32[np.ndarray, "*any"]) -> Int32[np.ndarray, "*any"]:
        """Number of the thing hit, 0 for ground and sky."""
        return self._number[surface + _SHIFT]


def _transform(world_from_thing: Pose, triangles: Float32[np.ndarray, "t 3 3"]) -> Float32[np.ndarray, "t 3 3"]:
    placed = transform_points(world_from_thing, triangles.reshape(-1, 3).astype(np.float64))
    return placed.reshape(-1, 3, 3).astype(np.float32)


def _scene(triangles: Float32[np.ndarray, "t 3 3"]) -> Any:
    scene = EmbreeScene()
    TriangleMesh(scene, triangles)
    return scene


class Snapshot:
    """The world frozen at one time."""

    def __init__(self, geometry: Geometry, moving_m: Float32[np.ndarray, "t 3 3"]) -> None:
        self.geometry = geometry
        self.moving_m = moving_m

    @cached_property
    def _scene(self) -> Any:
        return _scene(self.moving_m)

    def trace(self, origin_m: Float[np.ndarray, " 3"], directions: Float32[np.ndarray, "n 3"]) -> Hits:
        """First hit of each ray.

        Args:
            origin_m: common start, world frame.
            directions: unit vectors, world frame.
        """
        origins = np.tile(origin_m.astype(np.float32), (len(directions), 1))
        still = self.geometry.still_scene.run(origins, directions, output=1)
        moving = self._scene.run(origins, directions, dists=still["tfar"].copy(), output=1)
        layers = (_traced(0, still), _traced(self.geometry.num_still, moving))
        world = self.geometry.world
        origin = origin_m.astype(np.float64)
        return Hits(*_merge(layers, self.geometry.local_m, world.ground, world.hills, origin, directions))

    def is_lit(
        self, origin_m: Float[np.ndarray, " 3"], directions: Float32[np.ndarray, "n 3"], hits: Hits
    ) -> Bool[np.ndarray, " n"]:
        """Whether the sun reaches the hits of rays from ``origin_m``."""
        sun = self.geometry.world.sun.astype(np.float32)
        lit = (hits.surface != SKY) & (hits.normal @ sun > 0)
        chosen = np.flatnonzero(lit)
        reach = directions[chosen] * hits.distance_m[chosen, None]
        start = origin_m.astype(np.float32) + reach + 0.02 * hits.normal[chosen]
        towards = np.tile(sun, (len(chosen), 1))
        for scene in (self.geometry.still_scene, self._scene):
            lit[chosen] &= scene.run(start, towards, query="OCCLUDED") < 0
        return lit


class _Traced(NamedTuple):
    """First triangle on each ray, as embree tells it."""

    first: int
    """Number of the tree's first triangle among all triangles."""
    triangle: Int32[np.ndarray, " n"]
    """Within the tree; -1 for none."""
    distance_m: Float32[np.ndarray, " n"]
    u: Float32[np.ndarray, " n"]
    v: Float32[np.ndarray, " n"]
    facing: Float32[np.ndarray, "n 3"]
    """Normal of the triangle, of any length and sign."""


def _traced(first: int, answer: dict[str, Any]) -> _Traced:
    return _Traced(first, answer["primID"], answer["tfar"], answer["u"], answer["v"], answer["Ng"])


@compiled
def _merge(
    layers: tuple[_Traced, _Traced],
    local_m: Float32[np.ndarray, "t 3 3"],
    ground: UInt8[np.ndarray, "h w"],
    hills: Hills,
    origin_m: Float[np.ndarray, " 3"],
    directions: Float32[np.ndarray, "n 3"],
) -> tuple[Int32[np.ndarray, " n"], Float32[np.ndarray, " n"], Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"]]:
    """Nearest of still things, moving things and ground for each ray: the fields of `Hits`."""
    count = len(directions)
    surface = np.full(count, -1, np.int32)
    distance = np.full(count, np.inf, np.float32)
    local = np.zeros((count, 3), np.float32)
    normal = np.zeros((count, 3), np.float32)
    for i in range(count):
        d = directions[i]
        origin = (origin_m[0], origin_m[1], origin_m[2])
        reach, code, is_upright = hit_ground(ground, hills, origin, (d[0], d[1], d[2]))
        if reach < np.inf:
            surface[i], distance[i] = -2 - code, reach
            for c in range(3):
                local[i, c] = origin_m[c] + reach * d[c]
            flat = np.sqrt(d[0] * d[0] + d[1] * d[1])
            if is_upright and flat > 0:
                normal[i, 0], normal[i, 1] = -d[0] / flat, -d[1] / flat
            else:
                normal[i, 2] = 1.0
        for first, prim, far, u, v, facing in layers:
            if prim[i] < 0 or far[i] >= distance[i]:
                continue
            triangle = first + prim[i]
            surface[i], distance[i] = triangle, far[i]
            length = np.sqrt(facing[i, 0] ** 2 + facing[i, 1] ** 2 + facing[i, 2] ** 2)
            away = facing[i, 0] * d[0] + facing[i, 1] * d[1] + facing[i, 2] * d[2]
            sign = (-1.0 if away > 0 else 1.0) / max(length, 1e-20)
            for c in range(3):
                a, b, e = local_m[triangle, 0, c], local_m[triangle, 1, c], local_m[triangle, 2, c]
                local[i, c] = (1 - u[i] - v[i]) * a + u[i] * b + v[i] * e
                normal[i, c] = sign * facing[i, c]
    return surface, distance, local, normal


@dataclass(frozen=True)
class Picture:
    """A camera image and what each pixel truly shows."""

    bgr: UInt8[np.ndarray, "h w 3"]
    truth: UInt16[np.ndarray, "h w"]
    """Class of `OCC3D` (free: sky) * TRUTH_BASE + number of the thing (0: ground, sky)."""
    depth_m: Float32[np.ndarray, "h w"]
    """Of what the middle of each pixel shows, along the camera's axis; infinite for the sky."""
    surface: Int32[np.ndarray, "h w"]
    """As in `Hits`."""


def take_picture(snapshot: Snapshot, mount: Mount, world_from_ego: Pose, *, salt: int) -> Picture:
    """Renders one camera.

    Args:
        snapshot: the world at the moment of exposure.
        mount: the camera.
        world_from_ego: vehicle pose at that moment.
        salt: seed of sensor noise.
    """
    geometry, intrinsics = snapshot.geometry, mount.image_from_camera
    if intrinsics is None or mount.image_size is None:
        raise ValueError(f"{mount.channel} is no camera")
    width, height = mount.image_size
    world_from_camera = world_from_ego @ mount.ego_from_sensor
    rays_camera = pixel_rays(intrinsics, width, height)
    rays = rays_camera @ world_from_camera[:3, :3].T.astype(np.float32)
    origin = world_from_camera[:3, 3]
    hits = snapshot.trace(origin, rays)
    lit = snapshot.is_lit(origin, rays, hits)
    seen = Seen(hits.surface, hits.distance_m, hits.local_m, hits.normal, lit, rays)
    coat = Coat(geometry.axis, geometry.material, geometry.color, geometry.number)
    daylight = Daylight(geometry.world.sun, geometry.world.light)
    image = shade(seen, coat, geometry.world.ground, daylight, 1.0 / float(intrinsics[0, 0]), salt)
    blurred = cv2.GaussianBlur(image.reshape(height, width, 3), (3, 3), 0.45)
    classes = OCC3D_OF_CATEGORY[geometry.category(hits.surface)].astype(np.int32)
    truth = (classes * TRUTH_BASE + geometry.thing_number(hits.surface)).astype(np.uint16)
    depth_m = (hits.distance_m * rays_camera[:, 2]).reshape(height, width)
    surface = hits.surface.reshape(height, width)
    return Picture(blurred.astype(np.uint8), truth.reshape(height, width), depth_m, surface)


@dataclass(frozen=True)
class Cloud:
    """One turn of the LiDAR."""

    points: Float32[np.ndarray, "n 5"]
    """x, y, z (metres, LiDAR frame), intensity 0 .. 255, beam from 0 (lowest), as in a nuScenes `.pcd.bin`."""
    category: UInt8[np.ndarray, " n"]
    surface: Int32[np.ndarray, " n"]
    """As in `Hits`."""


def scan(geometry: Geometry, hits: Hits, generator: np.random.Generator, beams: Beams = HDL_32) -> Cloud:
    """What the LiDAR reports of one turn: 1 cm range noise, one return in 25 lost, all at one instant.

    Args:
        geometry: what was hit.
        hits: of `rig.lidar_rays`.
        generator: source of noise and loss.
        beams: the LiDAR.
    """
    rays = lidar_rays(beams)
    noise_m = generator.normal(0.0, 0.01, len(rays)).astype(np.float32)
    kept = (generator.random(len(rays)) > 0.04) & is_returned(hits)
    bright = np.full(len(rays), 12.0)
    bright[hits.surface == GROUND - PAINT_MARK] = 60.0
    on_thing = hits.surface >= 0
    bright[on_thing] = 8.0 + 90.0 * geometry.color[hits.surface[on_thing]].mean(axis=1)
    beam = np.tile(np.arange(beams.number), beams.azimuths)
    distance = (hits.distance_m + noise_m)[kept]
    points = np.column_stack([rays[kept] * distance[:, None], np.round(bright[kept]), beam[kept]])
    return Cloud(points.astype(np.float32), geometry.category(hits.surface)[kept], hits.surface[kept])


def is_returned(hits: Hits) -> Bool[np.ndarray, " n"]:
    """Whether hits are near and far enough for the LiDAR."""
    return np.asarray((hits.distance_m > LIDAR_NEAR_M) & (hits.distance_m < LIDAR_RANGE_M))
