"""Every stored array and shard member, once: name, axes, dtype, unit, fill value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FORMAT_VERSION: Final = 2
"""Version of all stored formats; readers refuse another one."""

NO_SEGMENT: Final = 65535
"""Segment id of a pixel outside every pseudo mask (does not occur in finished stores: masks cover the image)."""


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One Zarr array; axis N is the record. A task writes whole chunks, so tasks never share a file."""

    name: str
    axes: str
    dtype: Literal["uint8", "uint16", "float64"]
    unit: str
    fill: int | float
    codec: Literal["zstd", "blosc"]
    meaning: str
    chunk: int = 1
    """Records of one chunk."""


GEOMETRY_CHUNK: Final = 128
"""Records of one chunk of a geometry array and of the task that writes it: matrices are too small for own files."""

GEOMETRY: Final = (
    ArraySpec(
        name="image_from_camera",
        axes="N V 3 3",
        dtype="float64",
        unit="px",
        fill=float("nan"),
        codec="zstd",
        chunk=GEOMETRY_CHUNK,
        meaning="Intrinsics of the network's image, after resize and crop.",
    ),
    ArraySpec(
        name="camera_from_ego",
        axes="N V 4 4",
        dtype="float64",
        unit="m",
        fill=float("nan"),
        codec="zstd",
        chunk=GEOMETRY_CHUNK,
        meaning="Ego frame to the camera at its own time.",
    ),
    ArraySpec(
        name="global_from_ego",
        axes="N 4 4",
        dtype="float64",
        unit="m",
        fill=float("nan"),
        codec="zstd",
        chunk=GEOMETRY_CHUNK,
        meaning="Vehicle pose that defines the ego frame: at the LiDAR keyframe.",
    ),
)

OCCUPANCY: Final = (
    ArraySpec(
        name="semantics",
        axes="N X Y Z",
        dtype="uint8",
        unit="class",
        fill=255,
        codec="zstd",
        meaning="Class of the dataset's table; its ignored label where nobody knows.",
    ),
    ArraySpec(
        name="mask_lidar",
        axes="N X Y Z",
        dtype="uint8",
        unit="0/1",
        fill=0,
        codec="zstd",
        meaning="1 = observed by the accumulated LiDAR (hit or traversed).",
    ),
    ArraySpec(
        name="mask_camera",
        axes="N X Y Z",
        dtype="uint8",
        unit="0/1",
        fill=0,
        codec="zstd",
        meaning="1 = seen from the keyframe's cameras; the benchmark scores these voxels.",
    ),
)

MASKS: Final = (
    ArraySpec(
        name="segment_id",
        axes="N V H W",
        dtype="uint16",
        unit="id",
        fill=NO_SEGMENT,
        codec="blosc",
        meaning="Pseudo mask of each pixel of the network's image.",
    ),
    ArraySpec(
        name="segment_count",
        axes="N V",
        dtype="uint16",
        unit="count",
        fill=0,
        codec="zstd",
        meaning="Number of pseudo masks of the whole image, before the crop.",
    ),
)

STORES: Final[dict[str, tuple[ArraySpec, ...]]] = {"geometry": GEOMETRY, "occupancy": OCCUPANCY, "masks": MASKS}
