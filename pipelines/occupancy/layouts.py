"""How published `labels.npz` files are laid out: names of their arrays, numbers of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from schemas.classes import OCC3D, ClassTable

LayoutName = Literal["occ3d", "openocc-v2", "occ3d-waymo"]
MASKS: Final = ("mask_lidar", "mask_camera")


@dataclass(frozen=True)
class Layout:
    """One published set; its files are `<labels>/<scene>/<token>/labels.npz`, axes x, y, z in the ego frame."""

    arrays: Mapping[str, str]
    """Name in the file of `semantics`, `mask_lidar` and `mask_camera`."""
    classes: tuple[str, ...]
    """Class of each number from 0."""
    free: tuple[int, ...]
    """Numbers that mean free space."""
    has_masks: bool = True
    """Whether every file has both masks. Without them every voxel of a known class counts as observed."""

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the arrays that every file holds."""
        return tuple(self.arrays.values()) if self.has_masks else (self.arrays["semantics"],)

    @property
    def numbers(self) -> str:
        """The numbers that semantics may hold, for messages."""
        free = " or ".join(str(number) for number in self.free)
        return f"0..{len(self.classes) - 1} (free {free}) or {OCC3D.ignored} (unknown)"


_PLAIN: Final = {name: name for name in ("semantics", *MASKS)}

LAYOUTS: Final[Mapping[LayoutName, Layout]] = {
    "occ3d": Layout(arrays=_PLAIN, classes=OCC3D.names, free=(OCC3D.free,)),
    "openocc-v2": Layout(
        arrays=_PLAIN,
        classes=(
            *("car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian"),
            *("traffic_cone", "barrier", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade"),
            *("vegetation", "free"),
        ),
        free=(16,),
        has_masks=False,
    ),
    "occ3d-waymo": Layout(
        arrays={
            "semantics": "voxel_label",
            "mask_lidar": "origin_voxel_state",
            "mask_camera": "final_voxel_state",
        },
        classes=(
            *("general_object", "vehicle", "pedestrian", "sign", "cyclist", "traffic_light", "pole"),
            *("construction_cone", "bicycle", "motorcycle", "building", "vegetation", "tree_trunk", "road", "walkable"),
            "free",
        ),
        free=(15, 23),
    ),
}
"""Occ3D-nuScenes; OpenOcc v2 (challenge of 2024: 17 classes, free is 16, flow is not read); Occ3D-Waymo, whose files
number free 23 where its text says 15."""


@runtime_checkable
class Target(Protocol):
    """What numbers of a layout are brought to: an entry of `datasets.yaml`, or shards that travel alone."""

    @property
    def name(self) -> str:
        """Name of the entry, for messages."""

    @property
    def classes(self) -> ClassTable:
        """Its class table."""

    @property
    def categories(self) -> Mapping[str, str]:
        """Class of the table for names that it does not have."""


def layout_of(names: frozenset[str]) -> LayoutName | None:
    """The layout with the most arrays among those whose arrays all occur in a file; None where there is none."""
    fitting = [name for name, layout in LAYOUTS.items() if names.issuperset(layout.required)]
    return max(fitting, key=lambda name: len(LAYOUTS[name].required), default=None)
