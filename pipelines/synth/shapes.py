"""Triangle shapes with a material and a colour: blocks, tubes and blobs, the bricks of everything in the world."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import trimesh
from jaxtyping import Float, Float32, Int64, UInt8

Number = float | int
Vector = tuple[Number, Number, Number]
Color = tuple[float, float, float]
STEEL: Final[Color] = (0.42, 0.43, 0.45)


class Material(IntEnum):
    """How a surface is textured (see `texture`)."""

    PLAIN = 0
    PAINT = 1
    GLASS = 2
    FACADE = 3
    FOLIAGE = 4
    BARK = 5
    STRIPES = 6
    BRICK = 7
    RIBS = 8
    CLOTH = 9


@dataclass(frozen=True)
class Shape:
    """Triangles in the frame of their object (x forward, y left, z up, metres; origin on the ground)."""

    triangles: Float32[np.ndarray, "t 3 3"]
    material: UInt8[np.ndarray, " t"]
    color: Float32[np.ndarray, "t 3"]
    """RGB reflectance in [0, 1] before texture."""

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
        """Lower and upper corner, metres."""
        corners = self.triangles.reshape(-1, 3).astype(np.float64)
        return corners.min(axis=0), corners.max(axis=0)

    def moved(self, offset_m: Vector, yaw_rad: float = 0.0) -> Shape:
        """The shape turned about z and then shifted."""
        turned = self.triangles.astype(np.float64) @ yaw_rotation(yaw_rad).T + np.asarray(offset_m)
        return Shape(turned.astype(np.float32), self.material, self.color)


def yaw_rotation(yaw_rad: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about z, 3x3 float64."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pick(generator: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """One of several colours by chance."""
    return colors[int(generator.integers(len(colors)))]


def merge(*shapes: Shape) -> Shape:
    """One shape out of several of the same frame."""
    return Shape(
        np.concatenate([shape.triangles for shape in shapes]),
        np.concatenate([shape.material for shape in shapes]),
        np.concatenate([shape.color for shape in shapes]),
    )


def _shape(
    corners: Float[np.ndarray, "v 3"], faces: Int64[np.ndarray, "t 3"], material: Material, color: Color
) -> Shape:
    return Shape(
        corners[faces].astype(np.float32),
        np.full(len(faces), material, np.uint8),
        np.tile(np.asarray(color, np.float32), (len(faces), 1)),
    )


_BLOCK_FACES: Final = np.array(
    [
        [0, 2, 1],
        [0, 3, 2],
        [4, 5, 6],
        [4, 6, 7],
        [0, 1, 5],
        [0, 5, 4],
        [1, 2, 6],
        [1, 6, 5],
        [2, 3, 7],
        [2, 7, 6],
        [3, 0, 4],
        [3, 4, 7],
    ]
)
_BLOB_CORNERS: Final = {level: trimesh.creation.icosphere(subdivisions=level) for level in (1, 2)}


def block(
    center_m: Vector,
    size_m: Vector,
    material: Material,
    color: Color,
    *,
    taper: tuple[float, float] = (1.0, 1.0),
    lean_m: float = 0.0,
) -> Shape:
    """A box standing on ``center_m`` (the middle of its bottom face).

    Args:
        center_m: (x, y, z) of the middle of the bottom face.
        size_m: length (x), width (y), height (z) of the bottom.
        material: texture.
        color: RGB reflectance.
        taper: length and width of the top face as shares of the bottom's.
        lean_m: shift of the top face along x.
    """
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size_m[:2]
    bottom = np.column_stack([square, np.zeros(4)])
    top = np.column_stack([square * taper + [lean_m, 0.0], np.full(4, size_m[2])])
    return _shape(np.vstack([bottom, top]) + center_m, _BLOCK_FACES, material, color)


def tube(
    start_m: Vector, end_m: Vector, radii_m: tuple[float, float], material: Material, color: Color, *, sides: int = 8
) -> Shape:
    """A closed cylinder or cone between two points, with its radius at each end."""
    start, end = np.asarray(start_m, np.float64), np.asarray(end_m, np.float64)
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.0, 1.0, 0.0] if abs(axis[1]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    angles = np.arange(sides) * 2 * np.pi / sides
    ring = np.outer(np.cos(angles), side) + np.outer(np.sin(angles), np.cross(axis, side))
    corners = np.vstack([start + radii_m[0] * ring, end + radii_m[1] * ring, start[None], end[None]])
    near, far = np.arange(sides), np.arange(sides) + sides
    following = np.roll(near, -1)
    faces = np.vstack(
        [
            np.column_stack([near, following, far]),
            np.column_stack([following, following + sides, far]),
            np.column_stack([near, following, np.full(sides, 2 * sides)]),
            np.column_stack([far, following + sides, np.full(sides, 2 * sides + 1)]),
        ]
    )
    return _shape(corners, faces, material, color)


def blob(
    center_m: Vector,
    radii_m: Vector,
    material: Material,
    color: Color,
    *,
    generator: np.random.Generator | None = None,
    level: int = 1,
) -> Shape:
    """An ellipsoid; with a ``generator`` its surface is rough, like the crown of a tree.

    Args:
        center_m: centre.
        radii_m: half axes along x, y, z.
        material: texture.
        color: RGB reflectance.
        generator: source of the roughness (radius times 0.8 .. 1.15), or none for a smooth surface.
        level: 1 (80 triangles) or 2 (320 triangles).
    """
    sphere = _BLOB_CORNERS[level]
    corners = np.asarray(sphere.vertices, np.float64)
    if generator is not None:
        corners = corners * generator.uniform(0.8, 1.15, (len(corners), 1))
    return _shape(corners * radii_m + center_m, np.asarray(sphere.faces, np.int64), material, color)
