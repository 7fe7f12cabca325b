"""What everything in the world is called in SemanticKITTI: raw label ids of kinds of things, of their parts, of ground.

The official definitions are those of semantic-kitti-api's `config/semantic-kitti.yaml`; walls and barriers that divide
are its fences, cones and bins its other objects, which scene completion does not score. Nothing here is parking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, UInt8, UInt16

from pipelines.synth.ground import ASPHALT, ISLAND, KERB, PAINT_MARK, SIDEWALK, TERRAIN
from pipelines.synth.sensors import Geometry
from pipelines.synth.shapes import STEEL, Material, Shape
from pipelines.synth.texture import GROUND
from pipelines.synth.world import Thing

RAW_OF_KIND: Final[Mapping[str, int]] = {
    **{"car": 10, "bicycle": 11, "bus": 13, "motorcycle": 15, "truck": 18, "trailer": 20, "excavator": 20},
    **{"walker": 30, "bystander": 30, "ridden bicycle": 31, "ridden motorcycle": 32},
    **{"building": 50, "wall": 51, "fence": 51, "barrier": 51},
    **{"tree": 70, "bush": 70, "hedge": 70, "lamp post": 80, "traffic light": 80, "sign": 81},
    **{"cone": 99, "bin": 99},
}
"""Kind of thing (`actors.BUILDERS`) -> raw id while it stands still."""
MOVING: Final[Mapping[int, int]] = {10: 252, 31: 253, 30: 254, 32: 255, 13: 257, 18: 258, 20: 259}
"""Raw id of a thing that moves, by its raw id while it stands."""
RAW_OF_GROUND: Final[Mapping[int, int]] = {ASPHALT: 40, PAINT_MARK: 60, SIDEWALK: 48, KERB: 48, TERRAIN: 72, ISLAND: 49}
"""Ground code -> raw id."""


def _is_bark(shape: Shape) -> Bool[np.ndarray, " t"]:
    return shape.material == Material.BARK


def _is_steel(shape: Shape) -> Bool[np.ndarray, " t"]:
    steel: Bool[np.ndarray, " t"] = np.all(shape.color == np.asarray(STEEL, np.float32), axis=1)
    return steel


PARTS: Final[Mapping[str, tuple[Callable[[Shape], Bool[np.ndarray, " t"]], int]]] = {
    "tree": (_is_bark, 71),
    "sign": (_is_steel, 80),
}
"""Kind of thing -> which triangles are another matter, and their raw id: trunks and the posts of signs."""
FIRST_THING: Final = 10
LAST_THING: Final = 32
"""Raw ids from the one to the other, and all of what moves, are things that the official labels number."""


def raw_of_thing(thing: Thing) -> UInt16[np.ndarray, " t"]:
    """Raw id of each triangle of a thing."""
    raw = RAW_OF_KIND[thing.kind]
    ids = np.full(len(thing.shape.triangles), raw if thing.track is None else MOVING[raw], np.uint16)
    if thing.kind in PARTS:
        is_part, other = PARTS[thing.kind]
        ids[is_part(thing.shape)] = other
    return ids


class RawIds:
    """Raw ids of all surfaces of a world, as a list of those that occur and the position of each surface's there."""

    def __init__(self, geometry: Geometry) -> None:
        triangles = np.concatenate([raw_of_thing(thing) for thing in geometry.things])
        ground = np.array([RAW_OF_GROUND[code] for code in range(len(RAW_OF_GROUND))], np.uint16)
        self.ids: UInt16[np.ndarray, " k"] = np.unique(np.concatenate([triangles, ground]))
        """Raw ids that occur, rising."""
        self.of_triangle: UInt8[np.ndarray, " t"] = np.searchsorted(self.ids, triangles).astype(np.uint8)
        self.of_ground: UInt8[np.ndarray, " g"] = np.searchsorted(self.ids, ground).astype(np.uint8)
        # surface numbers count down from the sky's -1 over the ground codes: `texture.GROUND` - code
        self._front = np.concatenate([ground[::-1], np.zeros(1, np.uint16)])
        self._raw = np.concatenate([self._front, triangles])

    def of_surface(self, surface: Int32[np.ndarray, "*any"]) -> UInt16[np.ndarray, "*any"]:
        """Raw id of each surface number (`sensors.Hits`); 0 for the sky."""
        return self._raw[surface - (GROUND - len(self.of_ground) + 1)]
