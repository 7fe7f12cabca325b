"""Shapes of what lines a street: road works, bins, plants, posts, houses, walls."""

from __future__ import annotations

import numpy as np

from pipelines.synth.shapes import STEEL, Color, Material, Shape, blob, block, merge, pick, tube


def barrier(generator: np.random.Generator) -> Shape:
    """Road-works barrier, 2 m wide across x, red and white."""
    width = generator.uniform(1.8, 2.2)
    return merge(
        block((0, 0, 0.02), (0.55, width, 0.3), Material.STRIPES, (0.75, 0.08, 0.05), taper=(0.5, 1.0)),
        block((0, 0, 0.32), (0.27, width, 0.68), Material.STRIPES, (0.75, 0.08, 0.05), taper=(0.6, 1.0)),
    )


def traffic_cone(generator: np.random.Generator) -> Shape:
    """Orange cone with a white band, 0.75 to 0.95 m high on a 0.45 m foot."""
    height = generator.uniform(0.75, 0.95)
    orange: Color = (0.90, 0.28, 0.03)
    middle, band = 0.4 * height, 0.65 * height
    return merge(
        block((0, 0, 0.02), (0.45, 0.45, 0.06), Material.PLAIN, orange),
        tube((0, 0, 0.08), (0, 0, middle), (0.19, 0.135), Material.PLAIN, orange),
        tube((0, 0, middle), (0, 0, band), (0.135, 0.085), Material.PLAIN, (0.9, 0.9, 0.88)),
        tube((0, 0, band), (0, 0, height), (0.085, 0.03), Material.PLAIN, orange),
    )


def bin_(generator: np.random.Generator) -> Shape:
    """Wheeled bin, 1.1 to 1.3 m high."""
    paint = pick(generator, ((0.30, 0.10, 0.35), (0.16, 0.16, 0.40), (0.32, 0.14, 0.30)))
    height = generator.uniform(1.0, 1.2)
    return merge(
        block((0, 0, 0.03), (0.7, 0.95, height), Material.RIBS, paint, taper=(1.1, 1.05)),
        block((0, 0, height + 0.03), (0.82, 1.05, 0.1), Material.PLAIN, (0.80, 0.70, 0.10)),
    )


def tree(generator: np.random.Generator) -> Shape:
    """Trunk and a crown of rough blobs, 5 to 8 m high."""
    height = generator.uniform(5.0, 8.0)
    green = _leaf_color(generator)
    crown = [
        blob(
            (generator.uniform(-0.9, 0.9), generator.uniform(-0.9, 0.9), height * generator.uniform(0.55, 0.8)),
            (generator.uniform(1.2, 1.9), generator.uniform(1.2, 1.9), generator.uniform(1.1, 1.6)),
            Material.FOLIAGE,
            green,
            generator=generator,
            level=2,
        )
        for _ in range(3)
    ]
    return merge(tube((0, 0, 0), (0, 0, height * 0.6), (0.2, 0.13), Material.BARK, (0.27, 0.20, 0.14)), *crown)


def bush(generator: np.random.Generator) -> Shape:
    """A round bush, 0.8 to 1.5 m high."""
    radius = generator.uniform(0.6, 1.0)
    green = _leaf_color(generator)
    return merge(
        blob(
            (0, 0, radius * 0.6),
            (radius, radius * 1.3, radius * 0.8),
            Material.FOLIAGE,
            green,
            generator=generator,
            level=2,
        ),
        blob(
            (0.4, 0.4, radius * 0.5),
            (radius * 0.8, radius, radius * 0.6),
            Material.FOLIAGE,
            green,
            generator=generator,
            level=2,
        ),
    )


def hedge(generator: np.random.Generator) -> Shape:
    """A clipped hedge along x, 5 m long."""
    return block(
        (0, 0, 0), (5.0, 0.9, generator.uniform(1.0, 1.6)), Material.FOLIAGE, _leaf_color(generator), taper=(0.98, 0.9)
    )


def _leaf_color(generator: np.random.Generator) -> Color:
    shade = generator.uniform(0.8, 1.2)
    return (0.13 * shade * generator.uniform(0.7, 1.5), 0.27 * shade, 0.07 * shade)


def lamp_post(generator: np.random.Generator) -> Shape:
    """Street lamp, 6 to 7 m high, its arm along x."""
    height = generator.uniform(6.0, 7.0)
    return merge(
        tube((0, 0, 0), (0, 0, height), (0.11, 0.07), Material.PLAIN, STEEL),
        tube((0, 0, height), (1.8, 0, height + 0.3), (0.06, 0.05), Material.PLAIN, STEEL, sides=5),
        block((1.8, 0, height + 0.2), (0.6, 0.25, 0.12), Material.PLAIN, (0.8, 0.8, 0.75)),
    )


def sign_post(generator: np.random.Generator) -> Shape:
    """Traffic sign facing along x, 2.6 m high."""
    face = pick(generator, ((0.75, 0.06, 0.06), (0.06, 0.2, 0.65), (0.85, 0.75, 0.1)))
    return merge(
        tube((0, 0, 0), (0, 0, 2.7), (0.05, 0.05), Material.PLAIN, STEEL, sides=6),
        tube((0.06, 0, 2.3), (0.1, 0, 2.3), (0.38, 0.38), Material.PLAIN, face, sides=10),
        tube((0.1, 0, 2.3), (0.11, 0, 2.3), (0.26, 0.26), Material.PLAIN, (0.9, 0.9, 0.9), sides=10),
    )


def traffic_light(generator: np.random.Generator) -> Shape:
    """Signal head on a pole, facing along x, 3.6 m high."""
    lamp = pick(generator, ((0.9, 0.05, 0.03), (0.05, 0.75, 0.3)))
    return merge(
        tube((0, 0, 0), (0, 0, 3.6), (0.08, 0.08), Material.PLAIN, (0.2, 0.22, 0.2), sides=6),
        block((0.14, 0, 2.6), (0.25, 0.36, 1.0), Material.PLAIN, (0.05, 0.05, 0.05)),
        tube((0.26, 0, 3.35), (0.29, 0, 3.35), (0.12, 0.12), Material.PLAIN, lamp),
    )


def building(generator: np.random.Generator) -> Shape:
    """House front along x with windows, 10 to 17 m long and 5 to 16 m high."""
    length, depth = generator.uniform(10.0, 17.0), generator.uniform(8.0, 11.0)
    height = 3.2 * int(generator.integers(2, 6)) + 0.6
    wall = pick(
        generator,
        (
            (0.55, 0.50, 0.44),
            (0.50, 0.28, 0.20),
            (0.62, 0.60, 0.56),
            (0.58, 0.50, 0.34),
            (0.40, 0.42, 0.45),
            (0.66, 0.55, 0.48),
        ),
    )
    roof: Color = (0.25, 0.22, 0.21)
    return merge(
        block((0, 0, 0), (length, depth, height), Material.FACADE, wall),
        block((0, 0, height), (length + 0.5, depth + 0.5, 0.35), Material.PLAIN, roof),
    )


def wall(generator: np.random.Generator) -> Shape:
    """Brick wall along x, 6 m long, 1.3 to 2.2 m high."""
    return block((0, 0, 0), (6.0, 0.3, generator.uniform(1.3, 2.2)), Material.BRICK, (0.48, 0.25, 0.17))


def fence(generator: np.random.Generator) -> Shape:
    """Metal fence along x, 6 m long: posts and boards."""
    height = generator.uniform(1.2, 1.7)
    return merge(
        *(tube((x, 0, 0), (x, 0, height), (0.05, 0.05), Material.PLAIN, STEEL, sides=5) for x in (-2.9, 0.0, 2.9)),
        *(
            block((0, 0, z * height), (6.0, 0.06, 0.2 * height), Material.PLAIN, (0.50, 0.50, 0.48))
            for z in (0.15, 0.45, 0.75)
        ),
    )
