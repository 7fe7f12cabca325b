"""Class tables: what the classes of a label set are called, how they are drawn, which are free, ground or scored.

A table is a value: a dataset entry names or defines it, shards and checkpoints carry it. Sources of `OCC3D`: the label
files of Occ3D-nuScenes (0..17) and the nuScenes-lidarseg challenge mapping, keyed by category NAME, because installing
lidarseg changes the row order of `category.json`.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import Field, model_validator

from schemas.settings import Frozen

Channel = Annotated[int, Field(ge=0, le=255)]


class ClassTable(Frozen):
    """The classes of a label set; a class is stored as its position in ``names``."""

    names: tuple[str, ...] = Field(min_length=2, max_length=200, description="Class names by index, free included.")
    colors: tuple[tuple[Channel, Channel, Channel], ...] = Field(description="RGB of each class in every picture.")
    free: int = Field(ge=0, description="Index of the class that means free space.")
    ignored: int = Field(255, ge=0, le=255, description="Label of a voxel whose class nobody knows; never scored.")
    ground: tuple[str, ...] = Field((), description="Classes of the ground's surface.")
    driveable: str | None = Field(None, description="Ground class inside the driveable area of a map.")
    stuff: tuple[str, ...] = Field((), description="Classes of matter that no box describes, ground included.")
    symmetric: tuple[str, ...] = Field((), description="Classes of objects whose left and right sides are alike.")
    scored: tuple[str, ...] = Field((), description="Classes that mIoU averages; empty for all but free.")

    @model_validator(mode="after")
    def _check(self) -> ClassTable:
        if len(set(self.names)) < len(self.names) or not all(self.names):
            raise ValueError(f"class names must be different and not empty, found {', '.join(self.names)}")
        if len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.colors)} colors for {len(self.names)} names; each class needs one")
        if self.free >= len(self.names):
            raise ValueError(f"free = {self.free} is no index of the {len(self.names)} names")
        if self.ignored < len(self.names):
            raise ValueError(f"ignored = {self.ignored} is the index of class '{self.names[self.ignored]}'")
        groups = {"ground": self.ground, "stuff": self.stuff, "symmetric": self.symmetric, "scored": self.scored}
        groups["driveable"] = () if self.driveable is None else (self.driveable,)
        for field, members in groups.items():
            unknown = [name for name in members if name not in self.occupied]
            if unknown:
                raise ValueError(f"{field}: unknown class '{unknown[0]}'; known: {', '.join(self.occupied)}")
        if self.driveable is not None and self.driveable not in self.ground:
            raise ValueError(f"driveable: '{self.driveable}' is none of `ground`: {', '.join(self.ground) or 'none'}")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes L, free included."""
        return len(self.names)

    @property
    def occupied(self) -> tuple[str, ...]:
        """Names of all classes but free, in order of index."""
        return tuple(name for index, name in enumerate(self.names) if index != self.free)

    @property
    def things(self) -> tuple[str, ...]:
        """Names of all classes that stand on the ground: neither ground nor free, in order of index."""
        return tuple(name for name in self.occupied if name not in self.ground)

    def index(self, name: str) -> int:
        """Index of a class.

        Raises:
            KeyError: no such class.
        """
        if name not in self.names:
            raise KeyError(name)
        return self.names.index(name)

    def labels_of(self, names: tuple[str, ...]) -> UInt8[np.ndarray, " n"]:
        """Indices of some classes, such as ``table.labels_of(table.ground)``, in the order given."""
        return np.array([self.index(name) for name in names], dtype=np.uint8)

    @property
    def scored_labels(self) -> UInt8[np.ndarray, " n"]:
        """Indices of the classes that mIoU averages, in order of index."""
        return np.sort(self.labels_of(self.scored or self.occupied))

    @property
    def palette(self) -> UInt8[np.ndarray, "L 3"]:
        """RGB of each class."""
        return np.array(self.colors, dtype=np.uint8)

    def is_ground(self, labels: UInt8[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
        """Whether each label is a class of the ground's surface."""
        return np.isin(labels, self.labels_of(self.ground))

    def is_occupied(self, labels: UInt8[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
        """Whether each label says that something is there: any class but free, the ignored label included."""
        return labels != self.free


OCC3D: Final = ClassTable(
    names=(
        "others",
        "barrier",
        "bicycle",
        "bus",
        "car",
        "construction_vehicle",
        "motorcycle",
        "pedestrian",
        "traffic_cone",
        "trailer",
        "truck",
        "driveable_surface",
        "other_flat",
        "sidewalk",
        "terrain",
        "manmade",
        "vegetation",
        "free",
    ),
    colors=(
        (90, 90, 100),
        (255, 120, 50),
        (255, 170, 200),
        (240, 210, 0),
        (0, 120, 245),
        (0, 190, 190),
        (200, 140, 0),
        (230, 20, 40),
        (255, 225, 150),
        (135, 60, 0),
        (150, 50, 235),
        (190, 90, 190),
        (150, 140, 145),
        (90, 40, 95),
        (140, 205, 90),
        (176, 156, 130),
        (20, 145, 60),
        (255, 255, 255),
    ),
    free=17,
    ground=("driveable_surface", "other_flat", "sidewalk", "terrain"),
    driveable="driveable_surface",
    stuff=("driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation"),
    symmetric=("bicycle", "bus", "car", "motorcycle", "trailer", "truck"),
)
"""Occ3D-nuScenes. Construction vehicles carry their arms on either side, so they are not symmetric."""

SEMANTICKITTI: Final = ClassTable(
    names=(
        "empty",
        "car",
        "bicycle",
        "motorcycle",
        "truck",
        "other-vehicle",
        "person",
        "bicyclist",
        "motorcyclist",
        "road",
        "parking",
        "sidewalk",
        "other-ground",
        "building",
        "fence",
        "vegetation",
        "trunk",
        "terrain",
        "pole",
        "traffic-sign",
    ),
    colors=(
        (255, 255, 255),
        (100, 150, 245),
        (100, 230, 245),
        (30, 60, 150),
        (80, 30, 180),
        (0, 0, 255),
        (255, 30, 30),
        (255, 40, 200),
        (150, 30, 90),
        (255, 0, 255),
        (255, 150, 255),
        (75, 0, 75),
        (175, 0, 75),
        (255, 200, 0),
        (255, 120, 50),
        (0, 175, 0),
        (135, 60, 0),
        (150, 240, 80),
        (255, 240, 150),
        (255, 0, 0),
    ),
    free=0,
    ground=("road", "parking", "sidewalk", "other-ground", "terrain"),
    driveable="road",
    stuff=(
        *("road", "parking", "sidewalk", "other-ground", "terrain"),
        *("building", "fence", "vegetation", "trunk", "pole", "traffic-sign"),
    ),
    symmetric=("car", "bicycle", "motorcycle", "truck", "other-vehicle", "bicyclist", "motorcyclist"),
)
"""SemanticKITTI's scene completion: the 20 classes of its learning map, 0 = empty, with the colours of its tools."""

CLASS_TABLES: Final = {"occ3d": OCC3D, "semantickitti": SEMANTICKITTI}
"""Tables that `datasets.yaml` can name."""

NUSCENES_CATEGORIES: Final[dict[str, str]] = {
    "noise": "others",
    "animal": "others",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "others",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "others",
    "human.pedestrian.wheelchair": "others",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "others",
    "movable_object.pushable_pullable": "others",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "others",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "others",
    "vehicle.emergency.police": "others",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.vegetation": "vegetation",
    "static.other": "others",
    "vehicle.ego": "others",
}
"""The 32 categories of nuScenes-lidarseg, in the order of their index there, and their classes in `OCC3D`."""
