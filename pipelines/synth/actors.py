"""Vehicles, cycles and people, and the table of everything that can stand or move in the world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from pipelines.synth import street
from pipelines.synth.shapes import STEEL, Color, Material, Shape, Vector, blob, block, merge, pick, tube

CAR_PAINTS: Final[tuple[Color, ...]] = (
    (0.80, 0.80, 0.82),
    (0.55, 0.57, 0.60),
    (0.06, 0.06, 0.07),
    (0.55, 0.06, 0.06),
    (0.08, 0.16, 0.45),
    (0.15, 0.33, 0.38),
    (0.70, 0.66, 0.55),
)
CLOTHES: Final[tuple[Color, ...]] = (
    (0.65, 0.10, 0.12),
    (0.10, 0.18, 0.50),
    (0.75, 0.72, 0.68),
    (0.12, 0.12, 0.13),
    (0.72, 0.52, 0.12),
    (0.25, 0.45, 0.30),
    (0.45, 0.20, 0.48),
)
RUBBER: Final[Color] = (0.04, 0.04, 0.045)
DARK_GLASS: Final[Color] = (0.06, 0.09, 0.12)
SKIN: Final[Color] = (0.62, 0.42, 0.32)
HEAD_LAMP: Final[Color] = (0.95, 0.95, 0.85)
TAIL_LAMP: Final[Color] = (0.75, 0.03, 0.03)


def _wheels(axles_m: tuple[float, ...], half_width_m: float, radius_m: float) -> Shape:
    width = 0.24
    return merge(
        *(
            tube(
                (x, y - width / 2, radius_m),
                (x, y + width / 2, radius_m),
                (radius_m, radius_m),
                Material.PLAIN,
                RUBBER,
                sides=10,
            )
            for x in axles_m
            for y in (half_width_m - width / 2, -half_width_m + width / 2)
        )
    )


def _lamps(length_m: float, half_width_m: float, height_m: float) -> Shape:
    size: Vector = (0.06, 0.32, 0.16)
    return merge(
        *(
            block((sign * length_m / 2, y * (half_width_m - 0.25), height_m), size, Material.PLAIN, color)
            for sign, color in ((1, HEAD_LAMP), (-1, TAIL_LAMP))
            for y in (1, -1)
        )
    )


def car(generator: np.random.Generator) -> Shape:
    """Saloon, estate or van by chance, 4.0 to 4.9 m long."""
    length, width = generator.uniform(4.0, 4.9), generator.uniform(1.75, 1.95)
    kind = generator.choice(["saloon", "estate", "van"])
    paint = pick(generator, CAR_PAINTS)
    belt = {"saloon": 0.82, "estate": 0.92, "van": 1.0}[kind]
    cabin, shift = {"saloon": (0.55, -0.25), "estate": (0.68, -0.5), "van": (0.80, -0.4)}[kind]
    roof = generator.uniform(0.5, 0.6) + (0.25 if kind == "van" else 0.0)
    lean = -0.1 if kind == "saloon" else -0.25
    return merge(
        block((0, 0, 0.25), (length, width, belt - 0.25), Material.PAINT, paint, taper=(0.97, 0.94)),
        block(
            (shift, 0, belt),
            (length * cabin, width * 0.92, roof - 0.08),
            Material.GLASS,
            DARK_GLASS,
            taper=(0.72, 0.84),
            lean_m=lean,
        ),
        block(
            (shift + lean, 0, belt + roof - 0.08),
            (length * cabin * 0.72, width * 0.79, 0.08),
            Material.PAINT,
            paint,
            taper=(0.94, 0.94),
        ),
        _wheels((length * 0.31, -length * 0.31), width / 2, 0.33),
        _lamps(length, width / 2, 0.6),
    )


def truck(generator: np.random.Generator) -> Shape:
    """Cab and cargo box, 7 to 8.5 m long, 3.1 m high."""
    length, width = generator.uniform(7.0, 8.5), 2.45
    cab = pick(generator, ((0.70, 0.70, 0.72), (0.12, 0.25, 0.55), (0.60, 0.10, 0.08), (0.10, 0.35, 0.25)))
    cargo = pick(generator, ((0.85, 0.85, 0.84), (0.75, 0.76, 0.70), (0.55, 0.66, 0.72)))
    front = length / 2
    return merge(
        block((front - 0.95, 0, 0.5), (1.9, width * 0.95, 1.0), Material.PAINT, cab),
        block(
            (front - 0.95, 0, 1.5),
            (1.9, width * 0.94, 0.75),
            Material.GLASS,
            DARK_GLASS,
            taper=(0.8, 0.92),
            lean_m=-0.15,
        ),
        block((front - 1.1, 0, 2.25), (1.5, width * 0.86, 0.15), Material.PAINT, cab),
        block((-1.0, 0, 0.75), (length - 2.05, width, 2.35), Material.RIBS, cargo),
        block((0, 0, 0.5), (length * 0.95, 0.9, 0.25), Material.PLAIN, STEEL),
        _wheels((front - 1.2, -length * 0.2, -length * 0.36), width / 2, 0.48),
        _lamps(length, width / 2, 0.65),
    )


def bus(generator: np.random.Generator) -> Shape:
    """City bus, 11 m long with a band of windows, 3 m high."""
    length, width = generator.uniform(10.5, 11.5), 2.5
    paint = pick(generator, ((0.78, 0.60, 0.06), (0.72, 0.10, 0.10), (0.12, 0.50, 0.62)))
    return merge(
        block((0, 0, 0.35), (length, width, 0.95), Material.PAINT, paint),
        block((0, 0, 1.3), (length * 0.995, width * 0.98, 1.05), Material.GLASS, DARK_GLASS),
        block((0, 0, 2.35), (length, width, 0.65), Material.PAINT, paint, taper=(0.98, 0.9)),
        _wheels((length * 0.3, -length * 0.28), width / 2, 0.5),
        _lamps(length, width / 2, 0.7),
    )


def trailer(generator: np.random.Generator) -> Shape:
    """Semi-trailer without its tractor: a rusty red container on a frame, 7 m long."""
    length, width = generator.uniform(6.5, 7.5), 2.4
    paint = pick(generator, ((0.48, 0.17, 0.08), (0.55, 0.24, 0.08), (0.42, 0.12, 0.10)))
    return merge(
        block((0, 0, 1.05), (length, width, 2.2), Material.RIBS, paint),
        block((0, 0, 0.75), (length, 1.1, 0.3), Material.PLAIN, RUBBER),
        block((length * 0.33, 0.7, 0.03), (0.2, 0.2, 0.75), Material.PLAIN, STEEL),
        block((length * 0.33, -0.7, 0.03), (0.2, 0.2, 0.75), Material.PLAIN, STEEL),
        _wheels((-length * 0.25, -length * 0.40), width / 2, 0.48),
    )


def construction_vehicle(generator: np.random.Generator) -> Shape:
    """Excavator: tracks, turning cab, boom and bucket, in machine yellow."""
    yellow: Color = (0.83, 0.55, 0.04)
    reach = generator.uniform(2.6, 3.2)
    return merge(
        *(
            block((-0.6, y, 0.03), (3.4, 0.55, 0.85), Material.RIBS, (0.10, 0.10, 0.10), taper=(0.85, 1.0))
            for y in (0.9, -0.9)
        ),
        block((-0.9, 0, 0.9), (3.0, 2.2, 0.95), Material.PAINT, yellow),
        block((0.0, 0.55, 1.85), (1.3, 1.0, 1.1), Material.GLASS, DARK_GLASS, taper=(0.85, 0.9)),
        block((0.0, 0.55, 2.95), (1.2, 1.0, 0.1), Material.PAINT, yellow),
        tube((0.4, -0.4, 1.6), (reach - 0.6, -0.4, 3.3), (0.24, 0.2), Material.PAINT, yellow, sides=6),
        tube((reach - 0.6, -0.4, 3.3), (reach + 0.3, -0.4, 1.0), (0.2, 0.16), Material.PAINT, yellow, sides=6),
        block((reach + 0.2, -0.4, 0.35), (0.8, 1.0, 0.7), Material.PLAIN, STEEL, taper=(0.6, 1.0)),
    )


def _rider(generator: np.random.Generator, seat_m: float) -> Shape:
    shirt = pick(generator, CLOTHES)
    return merge(
        *(
            tube((-0.15, y, seat_m), (0.12, y, 0.35), (0.09, 0.07), Material.CLOTH, (0.10, 0.11, 0.16), sides=6)
            for y in (0.14, -0.14)
        ),
        block((-0.18, 0, seat_m), (0.26, 0.42, 0.58), Material.CLOTH, shirt, taper=(0.9, 1.0), lean_m=0.18),
        *(
            tube((0.02, y, seat_m + 0.5), (0.42, y, seat_m + 0.22), (0.055, 0.05), Material.CLOTH, shirt, sides=5)
            for y in (0.22, -0.22)
        ),
        blob((0.02, 0, seat_m + 0.74), (0.13, 0.12, 0.15), Material.PLAIN, pick(generator, CLOTHES)),
    )


def motorcycle(generator: np.random.Generator, *, has_rider: bool = False) -> Shape:
    """Scooter or motorcycle of 2 m, with or without a rider."""
    paint = pick(generator, ((0.60, 0.06, 0.05), (0.05, 0.05, 0.06), (0.10, 0.25, 0.60), (0.85, 0.83, 0.78)))
    parts = [
        *(
            tube((x, -0.07, 0.31), (x, 0.07, 0.31), (0.31, 0.31), Material.PLAIN, RUBBER, sides=12)
            for x in (0.68, -0.68)
        ),
        block((0.0, 0, 0.3), (0.95, 0.34, 0.42), Material.PAINT, paint, taper=(0.8, 0.8)),
        block((-0.32, 0, 0.72), (0.75, 0.28, 0.12), Material.PLAIN, RUBBER),
        block((0.5, 0, 0.55), (0.2, 0.36, 0.45), Material.PAINT, paint, lean_m=-0.15),
        tube((0.38, -0.34, 1.0), (0.38, 0.34, 1.0), (0.03, 0.03), Material.PLAIN, STEEL, sides=5),
    ]
    return merge(*parts, *([_rider(generator, 0.8)] if has_rider else []))


def bicycle(generator: np.random.Generator, *, has_rider: bool = False) -> Shape:
    """Bicycle of 1.7 m, with or without a rider."""
    paint = pick(generator, ((0.10, 0.45, 0.70), (0.75, 0.40, 0.05), (0.20, 0.55, 0.25), (0.75, 0.75, 0.78)))
    bars: tuple[tuple[Vector, Vector], ...] = (
        ((-0.52, 0, 0.35), (-0.2, 0, 0.85)),
        ((-0.2, 0, 0.85), (0.4, 0, 0.8)),
        ((0.4, 0, 0.95), (0.55, 0, 0.35)),
        ((-0.1, 0, 0.35), (0.4, 0, 0.75)),
        ((-0.52, 0, 0.35), (-0.1, 0, 0.35)),
        ((0.36, -0.28, 1.0), (0.36, 0.28, 1.0)),
    )
    parts = [
        *(
            tube((x, -0.03, 0.34), (x, 0.03, 0.34), (0.33, 0.33), Material.PLAIN, (0.10, 0.10, 0.11), sides=14)
            for x in (0.55, -0.52)
        ),
        *(tube(start, end, (0.035, 0.035), Material.PAINT, paint, sides=5) for start, end in bars),
        block((-0.24, 0, 0.85), (0.3, 0.18, 0.1), Material.PLAIN, RUBBER),
    ]
    return merge(*parts, *([_rider(generator, 0.92)] if has_rider else []))


def pedestrian(generator: np.random.Generator, *, stride_m: float = 0.18) -> Shape:
    """A person of 1.6 to 1.9 m in mid-step."""
    height = generator.uniform(1.6, 1.9)
    shirt, trousers, hair = (
        pick(generator, CLOTHES),
        pick(generator, CLOTHES[1:4]),
        pick(generator, ((0.08, 0.06, 0.05), (0.35, 0.22, 0.1))),
    )
    hip, neck = height * 0.5, height * 0.83
    return merge(
        *(
            tube((0, y, hip), (x, y, 0.03), (0.11, 0.08), Material.CLOTH, trousers, sides=6)
            for y, x in ((0.11, stride_m), (-0.11, -stride_m))
        ),
        block((0, 0, hip), (0.26, 0.42, neck - hip), Material.CLOTH, shirt, taper=(0.85, 1.1)),
        *(
            tube((0, y, neck - 0.05), (x, y, hip - 0.03), (0.06, 0.05), Material.CLOTH, shirt, sides=5)
            for y, x in ((0.27, -0.12), (-0.27, 0.12))
        ),
        blob((0.02, 0, height * 0.915), (0.11, 0.1, 0.15), Material.PLAIN, SKIN),
        blob((-0.03, 0, height * 0.935), (0.12, 0.115, 0.14), Material.PLAIN, hair),
    )


def ridden_motorcycle(generator: np.random.Generator) -> Shape:
    """Motorcycle with its rider."""
    return motorcycle(generator, has_rider=True)


def ridden_bicycle(generator: np.random.Generator) -> Shape:
    """Bicycle with its rider."""
    return bicycle(generator, has_rider=True)


def standing_person(generator: np.random.Generator) -> Shape:
    """A person with the legs together."""
    return pedestrian(generator, stride_m=0.03)


Builder = Callable[[np.random.Generator], Shape]

BUILDERS: Final[dict[str, tuple[str, Builder]]] = {
    "car": ("vehicle.car", car),
    "truck": ("vehicle.truck", truck),
    "bus": ("vehicle.bus.rigid", bus),
    "trailer": ("vehicle.trailer", trailer),
    "excavator": ("vehicle.construction", construction_vehicle),
    "motorcycle": ("vehicle.motorcycle", motorcycle),
    "ridden motorcycle": ("vehicle.motorcycle", ridden_motorcycle),
    "bicycle": ("vehicle.bicycle", bicycle),
    "ridden bicycle": ("vehicle.bicycle", ridden_bicycle),
    "walker": ("human.pedestrian.adult", pedestrian),
    "bystander": ("human.pedestrian.adult", standing_person),
    "barrier": ("movable_object.barrier", street.barrier),
    "cone": ("movable_object.trafficcone", street.traffic_cone),
    "bin": ("movable_object.pushable_pullable", street.bin_),
    "tree": ("static.vegetation", street.tree),
    "bush": ("static.vegetation", street.bush),
    "hedge": ("static.vegetation", street.hedge),
    "lamp post": ("static.manmade", street.lamp_post),
    "sign": ("static.manmade", street.sign_post),
    "traffic light": ("static.manmade", street.traffic_light),
    "building": ("static.manmade", street.building),
    "wall": ("static.manmade", street.wall),
    "fence": ("static.manmade", street.fence),
}
"""Kind of thing -> its nuScenes category and its builder."""
