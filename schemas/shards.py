"""The shard format: manifest, shard and sample entries, member names; for its writer, readers and transfer tools.

`manifest.json` is a wids-shard-index-v1 with further keys. Each shard is a POSIX tar of samples with an index of
(offset, size) per member. A sample's key is `<scene>-<frame:04d>`, the scene as `schemas.names.file_key` writes it.
docs/shards.md is the specification.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid
from schemas.images import ImageSpec
from schemas.names import file_key
from schemas.outside.limits import CAMERA_PIXELS, CAMERAS, GRID_VOXELS, MEMBER_FACTOR, MEMBER_SLACK, META_BYTES

SHARD_FORMAT: Final = 2
"""Version of the format; docs/shards.md says what each one has."""
WIDS_KIND: Final = "wids-shard-index-v1"
CHECKSUMS: Final = "SHA256SUMS"
CARD: Final = "README.md"
"""Dataset card, called as data hubs look for it."""
CROISSANT: Final = "croissant.json"
"""The same for programs: Croissant JSON-LD."""
MASKS_MEMBER: Final = "masks.png"
OCCUPANCY_MEMBER: Final = "occupancy.npz"
META_MEMBER: Final = "meta.json"
IMAGES_KEY: Final = "images"
"""Of `meta.json`: the camera files of the sample by channel, where the set holds no images."""
CLASSES_MEMBER: Final = "classes.png"
DEPTH_MEMBER: Final = "depth.npz"
DEPTH_IMAGE_MEMBER: Final = "depth.png"
INPUT_DEPTH_MEMBER: Final = "input_depth.png"
DEPTH_BYTES: Final = 7
"""Bytes of a point of `depth.npz`; a pixel has one at most."""
OCCUPANCY_ARRAYS: Final = 3
"""Arrays of `occupancy.npz`: semantics and two masks."""
IMAGE_FILE_BYTES: Final = 4 * CAMERA_PIXELS
"""No camera file is larger."""
TAR_BLOCK: Final = 512
"""Members of a tar start at multiples of it; the block before a member is its header."""
TAR_ENDING: Final = ".tar"
INDEX_ENDING: Final = ".index.json"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Hexadecimal. Files and folders of caches are named by such, so nothing else may stand there."""

IMAGE_MEMBERS: Final = "<camera>.jpg"
"""Stands for the images of all cameras."""
MEMBERS: Final[dict[str, str]] = {
    IMAGE_MEMBERS: "Network image of one camera (lower-case channel name), JPEG quality 95, RGB when decoded.",
    MASKS_MEMBER: "segment_id as 16-bit PNG, the V camera images below each other: (V*H, W).",
    OCCUPANCY_MEMBER: "semantics, mask_lidar, mask_camera: uint8 (X, Y, Z), deflate, no pickle.",
    DEPTH_MEMBER: "Only with `pack --depth`, LiDAR points in the images: count per camera, u, v, depth_m, label.",
    INPUT_DEPTH_MEMBER: "Only with `pack --depth-maps`, depth that networks read, 16-bit PNG in centimetres: (V*H, W).",
    META_MEMBER: "token, scene, frame, timestamp_us, cameras, segment_count, image_from_camera, camera_from_ego, "
    "global_from_ego; ego_from_lidar where the log has a LiDAR; images, the camera files, in sets without images.",
}
"""Members of one sample and what they hold."""

DEPTH_ARRAYS: Final[dict[str, str]] = {
    "count": "uint32",
    "u": "uint16",
    "v": "uint16",
    "depth_m": "float16",
    "label": "uint8",
}
"""Arrays of `depth.npz` and their types: points of each camera, and of each point, camera after camera, its pixel
(column u, row v), depth along the camera's axis in metres, and class."""

PIXEL_MEMBERS: Final[dict[str, str]] = {
    IMAGE_MEMBERS: MEMBERS[IMAGE_MEMBERS],
    CLASSES_MEMBER: "Class of each pixel as 8-bit PNG, the V cameras below each other: (V*H, W).",
    DEPTH_IMAGE_MEMBER: "Depth of each pixel as 16-bit PNG in centimetres, 0 where unknown: (V*H, W).",
}
"""Members of one sample of image targets, which hold no occupancy."""


def image_member(channel: str) -> str:
    """Member name of a camera's image."""
    return f"{file_key(channel.lower())}.jpg"


def sample_members(
    cameras: Sequence[str], *, masks: bool, depth: bool = False, depth_maps: bool = False, images: bool = True
) -> tuple[str, ...]:
    """Members that every sample has, in the order of the tar.

    Images stand last: a reader that finds the npz, a zip file, near the end of a tar may take the tar for one.
    """
    optional = {DEPTH_MEMBER: depth, INPUT_DEPTH_MEMBER: depth_maps, MASKS_MEMBER: masks}
    labels = [OCCUPANCY_MEMBER, *(member for member, is_there in optional.items() if is_there)]
    return (META_MEMBER, *labels, *(map(image_member, cameras) if images else ()))


def pixel_members(cameras: Sequence[str]) -> tuple[str, ...]:
    """Members of every sample of image targets, in the order of the tar."""
    return (*map(image_member, cameras), CLASSES_MEMBER, DEPTH_IMAGE_MEMBER)


def sample_key(scene: str, frame: int) -> str:
    """Stem of the member names of a sample."""
    return f"{file_key(scene)}-{frame:04d}"


class _Stored(BaseModel):
    """Other programs may add keys of their own, so unknown ones are no error here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def padded(size: int) -> int:
    """Bytes that a member of so many takes in a tar: the next multiple of `TAR_BLOCK`."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK


class DatasetInfo(_Stored):
    """What all samples of a shards folder have in common."""

    name: str = Field(description="Entry of datasets.yaml that was packed.")
    cameras: tuple[str, ...] = Field(min_length=1, description="Channels in the order of the V axis.")
    image_shape: tuple[int, int] = Field(description="(H, W) of every image, pixels.")
    grid: VoxelGrid = Field(description="Grid of the labels, ego frame.")
    classes: ClassTable = Field(description="Class table of the labels.")

    def faults(self) -> list[str]:
        """What no packed dataset has: for readers, who take nothing on trust."""
        members = [image_member(channel) for channel in self.cameras]
        pixels, voxels = len(self.cameras) * math.prod(self.image_shape), math.prod(self.grid.shape)
        checks = {
            f"{len(self.cameras)} cameras, at most {CAMERAS} are allowed": len(self.cameras) > CAMERAS,
            f"two cameras share the member {Counter(members).most_common(1)[0][0]}": len(set(members)) < len(members),
            f"images of {self.image_shape} pixels, together 1 to {CAMERA_PIXELS:,} are allowed": (
                min(self.image_shape) < 1 or pixels > CAMERA_PIXELS
            ),
            f"a grid of {voxels:,} voxels, at most {GRID_VOXELS:,} are allowed": voxels > GRID_VOXELS,
            "a grid without a finite place and size": not all(
                map(math.isfinite, (*self.grid.minimum_m, self.grid.voxel_size_m))
            ),
        }
        return [fault for fault, is_found in checks.items() if is_found]

    def member_limit(self, extension: str) -> int:
        """Bytes that a member may have: its content uncompressed, times a factor for noise, and some."""
        pixels = math.prod(self.image_shape)
        content = {
            OCCUPANCY_MEMBER: OCCUPANCY_ARRAYS * math.prod(self.grid.shape),
            MASKS_MEMBER: 2 * len(self.cameras) * pixels,
            DEPTH_MEMBER: DEPTH_BYTES * len(self.cameras) * pixels,
            CLASSES_MEMBER: len(self.cameras) * pixels,
            INPUT_DEPTH_MEMBER: 2 * len(self.cameras) * pixels,
            DEPTH_IMAGE_MEMBER: 2 * len(self.cameras) * pixels,
            META_MEMBER: META_BYTES,
        }.get(extension, 3 * pixels)
        return MEMBER_FACTOR * content + MEMBER_SLACK


class ImageFile(_Stored):
    """A camera file of the raw data, as `meta.json` names it where a set holds no images."""

    path: str = Field(description="Where it lies below the root of the raw data.")
    size: int = Field(ge=1, le=IMAGE_FILE_BYTES, description="Bytes.")
    sha256: Sha256 = Field(description="SHA-256, hexadecimal.")


class ImageFiles(_Stored):
    """How the images of a set without images are made of camera files (`schemas.network_images.network_jpeg`)."""

    specs: dict[str, ImageSpec] = Field(description="Resize and crop of each camera.")
    jpeg_quality: int = Field(ge=1, le=100, description="Quality of the JPEG that a set with images would hold.")

    def faults(self, dataset: DatasetInfo) -> list[str]:
        """What no packed set has."""
        specs = self.specs.values()
        checks = {
            f"cameras {sorted(self.specs)} of camera files, the set has others": set(self.specs)
            != set(dataset.cameras),
            f"camera files cropped to other sizes than {dataset.image_shape}": any(
                spec.shape != dataset.image_shape for spec in specs
            ),
            f"camera files resized to more than {CAMERA_PIXELS:,} pixels": any(
                math.prod(spec.resize or (1,)) > CAMERA_PIXELS for spec in specs
            ),
        }
        return [fault for fault, is_found in checks.items() if is_found]


class ShardEntry(_Stored):
    """One tar of the shard list."""

    url: str = Field(description="File name of the tar.")
    index: str = Field(description="File name of its offset index.")
    index_sha256: Sha256 | None = Field(None, description="SHA-256 of the index, hexadecimal; None in format 1.")
    split: str = Field(description="Split that all its samples belong to.")
    nsamples: int = Field(ge=1, description="Number of samples.")
    filesize: int = Field(ge=1, description="Size of the tar, bytes.")
    md5sum: str = Field(description="MD5 of the tar, hexadecimal, as wids wants it.")
    sha256: Sha256 = Field(description="SHA-256 of the tar, hexadecimal.")
    scenes: tuple[str, ...] = Field(description="Names of its scenes, in order.")

    @property
    def dali_index(self) -> str:
        """File name of its index for NVIDIA DALI."""
        return f"{self.url.removesuffix('.tar')}.idx"


class Manifest(_Stored):
    """`manifest.json`: what a reader needs; the stage's plan and counts stand beside it."""

    shard_format: int = Field(1, ge=1, description="Version of the format, `SHARD_FORMAT`; format 1 did not say it.")
    name: str = Field(description="Entry of datasets.yaml that was packed.")
    dataset: DatasetInfo = Field(description="Shapes and names.")
    licence: str | None = Field(None, description="Licence of the images, an SPDX identifier; None: nobody said it.")
    attribution: str | None = Field(None, description="Whom the licence asks to name; None: nobody said it.")
    code_version: str | None = Field(None, description="Release and commit of the program that packed them.")
    formerly: Sha256 | None = Field(
        None, description="Fingerprint of the set in format 1, by which runs know it; only after `protoocc upgrade`."
    )
    masks: str | None = Field(description="Generator of the pseudo masks; None where shards hold none.")
    depth: bool = Field(False, description="Whether the shards hold sparse depth, `depth.npz`.")
    depth_maps: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="Whether the shards hold depth maps of the user's, `input_depth.png`.",
    )
    pixels: Literal["truth", "lidar"] | None = Field(
        None,
        description="Where per-pixel classes and depth come from, for image targets, which hold nothing else; None for "
        "shards with occupancy.",
    )
    image_files: ImageFiles | None = Field(
        None, description="How images are made of camera files; None where the shards hold images."
    )
    left_out: dict[str, str] = Field({}, description="Token of each sample that an earlier stage dropped, and why.")
    shardlist: tuple[ShardEntry, ...] = Field(min_length=1, description="All shards of all splits.")

    @property
    def by_split(self) -> dict[str, list[ShardEntry]]:
        """Shards of each split, in their order."""
        found: dict[str, list[ShardEntry]] = {}
        for shard in self.shardlist:
            found.setdefault(shard.split, []).append(shard)
        return found

    @property
    def extensions(self) -> tuple[str, ...]:
        """Members that every sample must have."""
        if self.pixels is not None:
            return pixel_members(self.dataset.cameras)
        has_images = self.image_files is None
        return sample_members(
            self.dataset.cameras,
            masks=self.masks is not None,
            depth=self.depth,
            depth_maps=self.depth_maps,
            images=has_images,
        )

    @property
    def has_input_depth(self) -> bool:
        """Whether networks that read depth find some: maps of the user's or the LiDAR's points."""
        return self.depth or self.depth_maps

    @property
    def joined_extensions(self) -> tuple[str, ...]:
        """The same with the images that readers make of camera files."""
        images = () if self.image_files is None else map(image_member, self.dataset.cameras)
        return (*self.extensions, *images)

    def faults(self) -> list[str]:
        """What no packed set has: for readers, who take nothing on trust."""
        return [*self.dataset.faults(), *(self.image_files.faults(self.dataset) if self.image_files else [])]


class SampleEntry(_Stored):
    """One sample of a shard's index."""

    key: str = Field(description="`sample_key` of scene and frame: stem of the member names.")
    token: str = Field(description="Sample token.")
    scene: str = Field(description="Scene name.")
    frame: int = Field(description="Number of the keyframe within its scene.")
    members: dict[str, tuple[int, int]] = Field(description="Extension -> (offset, size) in the tar, bytes.")
    sha256: Sha256 | None = Field(
        None, description="SHA-256 of the bytes of its `span`, hexadecimal; None in format 1."
    )

    @property
    def span(self) -> tuple[int, int]:
        """Its first byte in the tar, of a header, and the one after its last."""
        places = self.members.values()
        return min(offset for offset, _ in places) - TAR_BLOCK, max(offset + padded(size) for offset, size in places)


class ShardIndex(_Stored):
    """`<shard>.index.json`."""

    shard: str = Field(description="File name of the tar.")
    split: str = Field(description="Split that all its samples belong to.")
    samples: tuple[SampleEntry, ...] = Field(description="In order of the tar.")
    sha256: Sha256 = Field(description="SHA-256 of the tar, hexadecimal.")
    md5sum: str = Field(description="MD5 of the tar, hexadecimal.")
    filesize: int = Field(ge=1, description="Size of the tar, bytes.")
