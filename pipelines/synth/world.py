"""The layout of a scene: a winding road with side streets, what stands along it and what drives and walks on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from pipelines.synth.actors import BUILDERS
from pipelines.synth.ground import (
    HALF_SIZE_M,
    SIDEWALK,
    Hills,
    Line,
    code_at,
    draw_ground,
    draw_hills,
    draw_island,
    height_of,
    stand_on,
)
from pipelines.synth.shapes import Shape, yaw_rotation
from schemas.geometry import Pose

STREET_HALF_M: Final = 3.8
EGO_SPEED_MPS: Final = 6.0
_CELL_M: Final = 0.2
"""Resolution of the map that keeps things from standing in each other."""

_PARKED: Final = (
    *("car",) * 4,
    *("truck", "bus", "trailer", "trailer", "excavator", "excavator", "motorcycles", "works", "works", "gap", "gap"),
)
"""What stands at the kerb: the deck is shuffled and dealt again and again, so a scene holds each kind several times."""
_WALKWAY: Final = (
    *("tree",) * 4,
    *("bystander",) * 3,
    *("walker",) * 3,
    *("lamp post", "sign", "bin", "bin", "bicycle", "bicycle", "motorcycle", "bush", "cone", "barrier"),
)
_BACKYARD: Final = ("hedge", "wall", "fence", "bush", "tree", "tree", "nothing", "nothing")
_TRAFFIC: Final = (
    *("car", "truck", "car", "ridden motorcycle", "bus", "ridden bicycle", "car", "ridden bicycle"),
    *("car", "ridden motorcycle", "truck"),
)


@dataclass(frozen=True)
class Road:
    """A closed line with a point every half metre; offsets count to the left. Each scene has widths of its own."""

    line: Float[np.ndarray, "n 2"]
    arc_m: Float[np.ndarray, " m"]
    half_m: float
    """Half the width, from kerb to kerb."""
    lane_m: float
    """Distance of the middle of a lane from the middle of the road."""
    sidewalk_m: float
    setback_m: float
    """From the sidewalk to the middle of a house."""

    @property
    def length_m(self) -> float:
        """Once around."""
        return float(self.arc_m[-1])

    def place(self, along_m: float, offset_m: float) -> tuple[float, float, float]:
        """Position (x, y) and heading (radians) at a distance along the road and to its left."""
        closed = np.vstack([self.line, self.line[:1]])
        behind, here, ahead = (
            np.array([np.interp((along_m + step) % self.length_m, self.arc_m, closed[:, axis]) for axis in (0, 1)])
            for step in (-1.5, 0.0, 1.5)
        )
        tangent = (ahead - behind) / np.linalg.norm(ahead - behind)
        position = here + offset_m * np.array([-tangent[1], tangent[0]])
        return float(position[0]), float(position[1]), float(np.arctan2(tangent[1], tangent[0]))


@dataclass(frozen=True)
class Track:
    """Motion along the road at constant speed; a negative speed goes the other way round."""

    offset_m: float
    start_m: float
    speed_mps: float


@dataclass(frozen=True)
class Thing:
    """One object of the world."""

    number: int
    """1, 2, ...; 0 is the ground and the sky."""
    category: str
    shape: Shape
    place: tuple[float, float, float]
    """x, y (metres) and heading (radians) while it stands still."""
    track: Track | None = None
    kind: str = ""

    @property
    def is_annotated(self) -> bool:
        """Whether nuScenes draws a box around things of this category."""
        return not self.category.startswith("static.")

    @property
    def size_wlh_m(self) -> tuple[float, float, float]:
        """Width, length, height of its box: 2 cm of air on each side, none below."""
        low, high = self.shape.bounds
        length, width, height = (float(value) for value in high - low)
        return (round(width + 0.04, 3), round(length + 0.04, 3), round(float(low[2]) + height + 0.02, 3))


@dataclass(frozen=True)
class World:
    """Everything that a scene holds, in metres from the middle of its patch."""

    ground: UInt8[np.ndarray, "h w"]
    hills: Hills
    road: Road
    things: tuple[Thing, ...]
    ego: Track
    sun: Float[np.ndarray, " 3"]
    """Unit vector towards the sun."""
    light: Float32[np.ndarray, "3 3"]
    """RGB of sun, sky light and sky."""

    def pose(self, thing: Thing, time_s: float) -> Pose:
        """``world_from_thing``: moving things follow their track; all things lean with the ground."""
        x, y, yaw = thing.place if thing.track is None else self.follow(thing.track, time_s)
        return stand_on(self.hills, x, y, yaw, height_of(code_at(self.ground, x, y)))

    def follow(self, track: Track, time_s: float) -> tuple[float, float, float]:
        """Position and heading of something on a track."""
        x, y, yaw = self.road.place(track.start_m + track.speed_mps * time_s, track.offset_m)
        return x, y, yaw + (np.pi if track.speed_mps < 0 else 0.0)

    def ego_pose(self, time_s: float) -> Pose:
        """``world_from_ego``: on the road, leaning with it."""
        x, y, yaw = self.follow(self.ego, time_s)
        return stand_on(self.hills, x, y, yaw, 0.0)


def build_world(generator: np.random.Generator, slope: float = 0.0) -> World:
    """Makes a scene by chance; ``slope`` is the steepest rise of its ground, metres per metre."""
    road = _main_road(generator)
    streets = [_side_street(generator, angle) for angle in (generator.uniform(-0.3, 0.3), generator.uniform(1.2, 1.9))]
    ground = draw_ground(
        road.line, streets, road_half_m=road.half_m, street_half_m=STREET_HALF_M, sidewalk_m=road.sidewalk_m
    )
    builder = _Builder(generator, road, ground)
    builder.keep_clear(streets)
    builder.islands()
    builder.kerbside()
    builder.walkways()
    builder.buildings(streets)
    builder.backyards()
    ego_start = float(generator.uniform(0.0, road.length_m))
    builder.traffic(ego_start)
    azimuth, elevation = generator.uniform(0, 2 * np.pi), np.radians(generator.uniform(35, 60))
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    warmth = generator.uniform(-0.06, 0.06)
    light = np.array([[1.0 + warmth, 0.97, 0.92 - warmth], [0.42, 0.46, 0.52], [0.52, 0.66, 0.86]], np.float32)
    light *= generator.uniform([[0.85], [0.85], [0.8]], [[1.1], [1.2], [1.1]]).astype(np.float32)
    ego = Track(-road.lane_m, ego_start, EGO_SPEED_MPS)
    return World(ground, draw_hills(generator, slope), road, tuple(builder.things), ego, sun, light)


def _main_road(generator: np.random.Generator) -> Road:
    """A closed road through jittered corners: cubic corner cutting turns the polygon into straights and curves.

    Half of the roads bend to the left, half to the right.
    """
    angles = np.linspace(0, 2 * np.pi, 6, endpoint=False) + generator.uniform(-0.2, 0.2, 6)
    radii = np.array([72.0, 54.0]) * generator.uniform(0.85, 1.15, (6, 2))
    line = radii * np.column_stack([np.cos(angles), np.sin(angles)])
    if generator.random() < 0.5:
        line = line[::-1]
    for _ in range(5):
        following = np.roll(line, -1, axis=0)
        line = np.stack([0.72 * line + 0.28 * following, 0.28 * line + 0.72 * following], axis=1).reshape(-1, 2)
    closed = np.vstack([line, line[:1]])
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    even = np.linspace(0.0, arc[-1], round(arc[-1] / 0.5), endpoint=False)
    line = np.column_stack([np.interp(even, arc, closed[:, axis]) for axis in (0, 1)])
    steps = np.linalg.norm(np.roll(line, -1, axis=0) - line, axis=1)
    half_m = float(generator.uniform(6.2, 9.0))
    return Road(
        line,
        np.concatenate([[0.0], np.cumsum(steps)]),
        half_m=half_m,
        lane_m=(half_m - 2.6) / 2 - 0.2,
        sidewalk_m=float(generator.uniform(2.6, 4.8)),
        setback_m=float(generator.uniform(6.5, 12.0)),
    )


def _side_street(generator: np.random.Generator, angle: float) -> Float[np.ndarray, "n 2"]:
    along = np.arange(-1.4 * HALF_SIZE_M, 1.4 * HALF_SIZE_M, 0.5)
    middle = generator.uniform(-18.0, 18.0, 2)
    return middle + along[:, None] * np.array([np.cos(angle), np.sin(angle)])


@dataclass
class _Builder:
    """Adds things where nothing stands yet."""

    generator: np.random.Generator
    road: Road
    ground: UInt8[np.ndarray, "h w"]
    things: list[Thing] = field(default_factory=list)
    used: UInt8[np.ndarray, "h w"] = field(
        default_factory=lambda: np.zeros((round(2 * HALF_SIZE_M / _CELL_M),) * 2, np.uint8)
    )

    def add(self, kind: str, x: float, y: float, yaw: float, *, codes: str, margin_m: float = 0.1) -> bool:
        """Puts a thing down if its footprint is free and lies on the allowed ground.

        Args:
            kind: key of `BUILDERS`.
            x: metres.
            y: metres.
            yaw: heading, radians.
            codes: "road", "walk" (sidewalk) or "off" (neither road nor sidewalk for static things).
            margin_m: air around it.
        """
        category, build = BUILDERS[kind]
        shape = _centered(build(self.generator))
        low, high = shape.bounds
        if kind == "tree":
            low, high = np.full(3, -0.4), np.full(3, 0.4)
        corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
        corners = corners + margin_m * np.sign(corners)
        corners = corners @ yaw_rotation(yaw)[:2, :2].T + (x, y)
        rows, columns = _cells(corners)
        if len(rows) == 0 or np.any(self.used[rows, columns]) or not self._fits(rows, columns, codes):
            return False
        self.used[rows, columns] = 1
        self.things.append(Thing(len(self.things) + 1, category, shape, (x, y, yaw), kind=kind))
        return True

    def _fits(self, rows: np.ndarray, columns: np.ndarray, codes: str) -> bool:
        scale = round(len(self.ground) / len(self.used))
        found = self.ground[rows * scale + scale // 2, columns * scale + scale // 2]
        allowed = {"road": found < SIDEWALK, "walk": found >= SIDEWALK, "off": found > SIDEWALK + 1}[codes]
        return bool(np.all(allowed))

    def keep_clear(self, streets: list[Line]) -> None:
        """Lets nothing stand still on the side streets, nor where they cross the main road."""
        for street in streets:
            ends = np.round((street[[0, -1]] + HALF_SIZE_M) / _CELL_M).astype(np.int32)
            cv2.polylines(self.used, [ends.reshape(-1, 1, 2)], False, (1,), round(2 * (STREET_HALF_M + 1.0) / _CELL_M))

    def islands(self) -> None:
        """Paves a strip of other flat ground beside the sidewalk every 45 m or so, both sides."""
        for along in np.arange(0.0, self.road.length_m, 45.0):
            for side in (1, -1):
                inner = self.road.half_m + self.road.sidewalk_m
                edge = [(step, inner - 1.2) for step in range(0, 15, 2)] + [
                    (step, inner + 3.0) for step in range(14, -1, -2)
                ]
                corners = np.array([self.road.place(along + step, side * offset)[:2] for step, offset in edge])
                if self._free_of_road(corners):
                    draw_island(self.ground, corners)

    def _free_of_road(self, points: Float[np.ndarray, "n 2"]) -> bool:
        return all(height_of(code_at(self.ground, float(x), float(y))) > 0 for x, y in points)

    def _deck(self, deck: tuple[str, ...], count: int) -> list[str]:
        rounds = -(-count // len(deck))
        return [deck[index] for _ in range(rounds) for index in self.generator.permutation(len(deck))][:count]

    def kerbside(self) -> None:
        """Deals parked vehicles and road works along both kerbs."""
        for side in (1, -1):
            along = 0.0
            for item in self._deck(_PARKED, 200):
                room = {"bus": 13.0, "truck": 10.0, "trailer": 9.0, "excavator": 8.0, "works": 9.0}.get(item, 6.2)
                if along + room > self.road.length_m:
                    break
                self._park(item, along + room / 2, side)
                along += room

    def _park(self, item: str, along_m: float, side: int) -> None:
        offset = side * (self.road.half_m - 1.35)
        x, y, yaw = self.road.place(along_m, offset)
        if item == "motorcycles":
            for step in (-1.8, 0.0, 1.8):
                x, y, yaw = self.road.place(along_m + step, offset)
                self.add("motorcycle", x, y, yaw + np.pi / 2 + self.generator.normal(0, 0.1), codes="road")
        elif item == "works":
            for step in (-2.4, 0.0, 2.4):
                x, y, yaw = self.road.place(along_m + step, offset - side * 0.6)
                self.add("barrier", x, y, yaw + np.pi / 2, codes="road")
            for step in (-4.0, -1.3, 1.3, 4.0):
                x, y, yaw = self.road.place(along_m + step, offset - side * (1.3 if abs(step) < 2 else 0.2))
                self.add("cone", x, y, yaw, codes="road")
        elif item != "gap":
            heading = yaw + (0.0 if side < 0 else np.pi) + self.generator.normal(0, 0.02)
            self.add(item, x, y, heading, codes="road")

    def walkways(self) -> None:
        """Deals trees, posts, bins, cycles and people along both sidewalks; walkers move in a lane of their own."""
        for side in (1, -1):
            slots = np.arange(1.0, self.road.length_m - 1.0, 2.6)
            for along, kind in zip(slots, self._deck(_WALKWAY, len(slots)), strict=True):
                if kind == "walker":
                    track = Track(
                        side * (self.road.half_m + self.road.sidewalk_m / 2),
                        float(along),
                        float(self.generator.choice([-1.3, -1.0, 1.0, 1.3])),
                    )
                    self._add_moving(kind, track)
                    continue
                offset = {"tree": 0.8, "lamp post": 0.5, "sign": 0.5, "bush": self.road.sidewalk_m + 0.6}.get(
                    kind, float(self.generator.choice([0.8, self.road.sidewalk_m - 0.8]))
                )
                x, y, yaw = self.road.place(float(along), side * (self.road.half_m + offset))
                turn = {"lamp post": side * -np.pi / 2, "sign": np.pi * (side < 0)}.get(
                    kind, float(self.generator.uniform(0, 2 * np.pi))
                )
                self.add(kind, x, y, yaw + turn, codes="walk")

    def buildings(self, streets: list[Line]) -> None:
        """Lines the road and the side streets with houses, fronts along the street."""
        for side in (1, -1):
            for along in np.arange(0.0, self.road.length_m, 6.0):
                x, y, yaw = self.road.place(
                    float(along), side * (self.road.half_m + self.road.sidewalk_m + self.road.setback_m)
                )
                self.add("building", x, y, yaw, codes="off", margin_m=0.8)
            for street in streets:
                forward = (street[-1] - street[0]) / np.linalg.norm(street[-1] - street[0])
                normal = np.array([-forward[1], forward[0]])
                for point in street[::12]:
                    x, y = point + side * (STREET_HALF_M + self.road.sidewalk_m + 7.0) * normal
                    if max(abs(x), abs(y)) < HALF_SIZE_M - 12.0:
                        yaw = float(np.arctan2(forward[1], forward[0]))
                        self.add("building", float(x), float(y), yaw, codes="off", margin_m=0.8)

    def backyards(self) -> None:
        """Fills the strip behind the sidewalk and the open land with hedges, walls, fences, bushes and trees."""
        for side in (1, -1):
            slots = np.arange(0.0, self.road.length_m, 4.0)
            for along, kind in zip(slots, self._deck(_BACKYARD, len(slots)), strict=True):
                if kind != "nothing":
                    offset = self.road.half_m + self.road.sidewalk_m + self.generator.uniform(0.8, 2.5)
                    x, y, yaw = self.road.place(float(along), side * offset)
                    self.add(kind, x, y, yaw, codes="off")
        for x, y in self.generator.uniform(-0.8 * HALF_SIZE_M, 0.8 * HALF_SIZE_M, (160, 2)):
            kind = str(self.generator.choice(["tree", "tree", "bush"]))
            self.add(kind, float(x), float(y), float(self.generator.uniform(0, 6.28)), codes="off")

    def traffic(self, ego_start_m: float) -> None:
        """Fills both lanes, leaving room around the ego vehicle, which drives at the speed of its lane."""
        kinds = self._deck(_TRAFFIC, 100)
        for offset, speed, first in ((-self.road.lane_m, EGO_SPEED_MPS, 13.0), (self.road.lane_m, -7.0, 0.0)):
            along = first
            while along < self.road.length_m - 13.0:
                self._add_moving(kinds.pop(), Track(offset, ego_start_m + along, speed))
                along += float(self.generator.uniform(13.0, 19.0))

    def _add_moving(self, kind: str, track: Track) -> None:
        category, build = BUILDERS[kind]
        shape = _centered(build(self.generator))
        self.things.append(Thing(len(self.things) + 1, category, shape, (0.0, 0.0, 0.0), track, kind))


def _cells(corners_m: Float[np.ndarray, "n 2"]) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Rows and columns of the placement map under a convex polygon."""
    cells = np.round((corners_m + HALF_SIZE_M) / _CELL_M).astype(np.int32)
    first = cells.min(axis=0)
    width, height = cells.max(axis=0) - first + 1
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, cells - first, (1,))
    rows, columns = np.nonzero(mask)
    return rows + int(first[1]), columns + int(first[0])


def _centered(shape: Shape) -> Shape:
    """The shape with the middle of its footprint at the origin, so that its box is centred there."""
    low, high = shape.bounds
    middle = (low + high) / 2
    return shape.moved((-float(middle[0]), -float(middle[1]), 0.0))
