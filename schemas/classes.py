"""Class tables: Occ3D-nuScenes semantics and how nuScenes categories map to them.

Source: Occ3D-nuScenes label files (0..17) and the nuScenes-lidarseg challenge mapping. The mapping is keyed by category
NAME, because installing lidarseg changes the row order of `category.json`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8

OCC3D_CLASSES: Final = (
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
)
FREE: Final = 17
IGNORED: Final = 255
"""Label of a voxel whose class nobody knows: training and metrics skip it."""

OCC3D_COLORS: Final[UInt8[np.ndarray, "18 3"]] = np.array(
    [
        [90, 90, 100],
        [255, 120, 50],
        [255, 170, 200],
        [240, 210, 0],
        [0, 120, 245],
        [0, 190, 190],
        [200, 140, 0],
        [230, 20, 40],
        [255, 225, 150],
        [135, 60, 0],
        [150, 50, 235],
        [190, 90, 190],
        [150, 140, 145],
        [90, 40, 95],
        [140, 205, 90],
        [176, 156, 130],
        [20, 145, 60],
        [255, 255, 255],
    ],
    dtype=np.uint8,
)
"""RGB colour of each Occ3D class in every picture."""

NUSCENES_CATEGORY_TO_OCC3D: Final[dict[str, int]] = {
    "noise": 0,
    "animal": 0,
    "human.pedestrian.adult": 7,
    "human.pedestrian.child": 7,
    "human.pedestrian.construction_worker": 7,
    "human.pedestrian.personal_mobility": 0,
    "human.pedestrian.police_officer": 7,
    "human.pedestrian.stroller": 0,
    "human.pedestrian.wheelchair": 0,
    "movable_object.barrier": 1,
    "movable_object.debris": 0,
    "movable_object.pushable_pullable": 0,
    "movable_object.trafficcone": 8,
    "static_object.bicycle_rack": 0,
    "vehicle.bicycle": 2,
    "vehicle.bus.bendy": 3,
    "vehicle.bus.rigid": 3,
    "vehicle.car": 4,
    "vehicle.construction": 5,
    "vehicle.emergency.ambulance": 0,
    "vehicle.emergency.police": 0,
    "vehicle.motorcycle": 6,
    "vehicle.trailer": 9,
    "vehicle.truck": 10,
    "flat.driveable_surface": 11,
    "flat.other": 12,
    "flat.sidewalk": 13,
    "flat.terrain": 14,
    "static.manmade": 15,
    "static.vegetation": 16,
    "static.other": 0,
    "vehicle.ego": 0,
}
"""The 32 categories of nuScenes-lidarseg by name; index in that dataset = position here."""
