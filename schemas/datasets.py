"""`datasets.yaml`: what a dataset is, typed and validated; errors name the entry and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.classes import CLASS_TABLES, NUSCENES_CATEGORIES, OCC3D, ClassTable
from schemas.errors import ConfigError, DataError, did_you_mean
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, VoxelGrid
from schemas.images import SMALLEST_SIDE_PX, ImageSpec
from schemas.names import file_key
from schemas.outside import Source, parse_yaml, read_bytes, shorten
from schemas.outside.limits import YAML_BYTES
from schemas.settings import Frozen, describe_validation

NUSCENES_CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""Camera order of every array with a V axis, unless a dataset entry names another one."""

Format = Literal["nuscenes", "semantickitti"]
"""Layout of raw data; `pipelines.prepare.SOURCES` has a reader for each."""

_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "semantickitti": {
        "version": "dataset",
        "cameras": ("image_2",),
        "lidar": "velodyne",
        "image": {"resize": None, "crop": (0, 0, 1220, 370)},
        "grid": SEMANTICKITTI_GRID,
        "classes": "semantickitti",
        "projection": "exact",
    },
}
"""Values of fields that an entry leaves out, where they are not those of nuScenes."""


class SplitSpec(Frozen):
    """A named share of the keyframes: an official devkit split or scenes that the user lists."""

    official: str | None = Field(None, description="Name of a devkit split, such as train, val, mini_train.")
    scenes: tuple[str, ...] | None = Field(None, description="Scene names, instead of an official split.")
    every: int = Field(1, ge=1, description="Keep every n-th keyframe of each scene, starting with the first.")
    limit: int | None = Field(None, ge=1, description="Keep at most so many keyframes of each scene, the first ones.")

    @model_validator(mode="after")
    def _one_source(self) -> SplitSpec:
        if (self.official is None) == (self.scenes is None):
            raise ValueError("a split needs either `official: NAME` or `scenes: [NAME, ...]`")
        return self


class DatasetSpec(Frozen):
    """One entry of `datasets.yaml`."""

    name: str = Field(description="Name of the entry.")
    format: Format = Field(description="Layout of the raw data.")
    root: Path = Field(description="Raw data folder; relative paths start at the folder of datasets.yaml.")
    version: str = Field(
        description="Folder below root: of the tables, such as v1.0-trainval; semantickitti: of `sequences`, `dataset`."
    )
    work: Path = Field(description="Folder that the stages write to.")
    cameras: tuple[str, ...] = Field(NUSCENES_CAMERAS, min_length=1, description="Camera channels, in array order.")
    lidar: str | None = Field("LIDAR_TOP", description="LiDAR channel; null for logs of cameras alone.")
    point_columns: int | None = Field(
        None,
        ge=3,
        description="float32 values of each LiDAR point, x, y, z first; null for the format's own (nuscenes: 5).",
    )
    image: ImageSpec = Field(description="Resize and crop.")
    camera_images: dict[str, ImageSpec] = Field(
        {},
        description="Resize and crop of single cameras, by channel, where files differ; the same size after the crop.",
    )
    grid: VoxelGrid = Field(OCC3D_GRID, description="Occupancy grid, ego frame.")
    classes: ClassTable = Field(
        OCC3D, description="Class table: the name of a known one (occ3d), or {names: [...], colors: [...], free: N}."
    )
    categories: dict[str, str] = Field({}, description="Further box or point categories: category name -> class name.")
    labels: str = Field("gts", description="Folder of Occ3D labels below root (<labels>/<scene>/<token>/labels.npz).")
    projection: Literal["exact", "peer"] | None = Field(
        None,
        description="semantickitti: image_2 has its own place on the vehicle (exact, P2 with its 4th column), or that "
        "of camera 0, as VoxFormer, MonoScene and Symphonies project (peer); null for other formats.",
    )
    splits: dict[str, SplitSpec] = Field(description="Named splits; training uses `train`, evaluation `val`.")
    licence: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Licence of the images as an SPDX identifier, such as CC-BY-NC-SA-4.0; travels with shards.",
    )
    attribution: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Whom and what the licence asks to name, one line; travels with shards.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        kind = value.get("format") if isinstance(value, dict) else None
        return {**_DEFAULTS.get(kind, {}), **value} if isinstance(kind, str) else value

    @field_validator("root", "work")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        if "\\" in str(value):
            raise ValueError("folders are separated by / here, not by backslashes")
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise ValueError(f"{error} (the part behind ~ names no user)") from error

    @field_validator("classes", mode="before")
    @classmethod
    def _named_table(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in CLASS_TABLES:
            raise ValueError(f"no class table '{value}'; known: {', '.join(CLASS_TABLES)}, or define one")
        return CLASS_TABLES[value]

    @model_validator(mode="after")
    def _fits(self) -> DatasetSpec:
        unknown = sorted(set(self.categories.values()) - set(self.classes.occupied))
        if unknown:
            raise ValueError(f"categories: unknown class {unknown[0]!r}; known: {', '.join(self.classes.occupied)}")
        twice = [channel for index, channel in enumerate(self.cameras) if channel in self.cameras[:index]]
        if twice:
            raise ValueError(f"cameras: {twice[0]} is listed twice")
        keys = [file_key(channel.lower()) for channel in self.cameras]
        alike = [channel for index, channel in enumerate(self.cameras) if keys[index] in keys[:index]]
        if alike:
            raise ValueError(f"cameras: {alike[0]} differs from another one in capital letters alone; rename it")
        if min(self.image.shape) < SMALLEST_SIDE_PX:
            raise ValueError(
                f"image.crop: the network's image would have {self.image.shape} rows and columns; below "
                f"{SMALLEST_SIDE_PX} nothing is left to see or to segment"
            )
        if (self.projection is None) == (self.format == "semantickitti"):
            raise ValueError("projection: exact or peer for format semantickitti, null for any other")
        if self.lidar is None and self.grid.frame == "lidar":
            raise ValueError("grid.frame: lidar needs a LiDAR, and `lidar` is null")
        for channel, image in self.camera_images.items():
            if channel not in self.cameras:
                raise ValueError(f"camera_images: {channel} is none of the cameras {', '.join(self.cameras)}")
            if image.shape != self.image.shape:
                raise ValueError(
                    f"camera_images.{channel}: {image.shape} rows and columns after the crop, the others have "
                    f"{self.image.shape}"
                )
        return self

    def image_settings(self) -> dict[str, Any]:
        """`cameras`, `image` and `camera_images` as plain values, for the plans of stages whose bytes they decide."""
        return self.model_dump(mode="json", include={"cameras", "image", "camera_images"})

    def image_of(self, channel: str) -> ImageSpec:
        """Resize and crop of a camera."""
        return self.camera_images.get(channel, self.image)

    def class_of(self, category: str) -> int:
        """Class index of a nuScenes category name.

        Raises:
            KeyError: the category has no class of this table; the caller knows file and sample.
        """
        return self.classes.index(self.categories.get(category) or NUSCENES_CATEGORIES[category])


def load_datasets(path: Path) -> dict[str, DatasetSpec]:
    """Reads and validates `datasets.yaml`.

    Args:
        path: the YAML file; relative `root` and `work` start at its folder.

    Returns:
        Entries by name, in the order of the file.

    Raises:
        ConfigError: the file is missing, is no YAML, or an entry has an unknown, missing or wrong field.
    """
    source = Source(str(path))
    try:
        entries = parse_yaml(source, read_bytes(source, path, YAML_BYTES))
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ConfigError(
                f"{path.absolute()} not found. Copy the repository's datasets.yaml to it or pass --datasets PATH."
            ) from None
        raise ConfigError(str(error)) from error
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f"{path}: expected a mapping `name: {{format: nuscenes, root: ..., ...}}`")
    return {str(name): _load_entry(path, str(name), entry) for name, entry in entries.items()}


def _load_entry(path: Path, name: str, entry: object) -> DatasetSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}, entry '{name}': expected fields such as root and version, found {shorten(entry)}")
    fields = {"work": f"work/{name}", **entry, "name": name}
    try:
        spec = DatasetSpec.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe_validation(f"{path}, entry '{name}'", error)) from error
    base = path.absolute().parent
    return spec.model_copy(update={"root": base / expanded(spec.root), "work": base / expanded(spec.work)})


def expanded(path: Path) -> Path:
    """The path with a leading `~` as the user's home folder, as shells write it.

    Raises:
        ConfigError: no such user, or a user without a home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {str(error).rstrip('.')}; write the folder without ~") from error


def select_dataset(datasets: dict[str, DatasetSpec], name: str | None) -> DatasetSpec:
    """The entry of that name; the first one when no name is given.

    Raises:
        ConfigError: no such entry; lists the known ones.
    """
    if name is None:
        return next(iter(datasets.values()))
    if name not in datasets:
        near = did_you_mean(name, datasets)
        raise ConfigError(f"no dataset {shorten(name)} in datasets.yaml; known: {', '.join(datasets)}.{near}")
    return datasets[name]
