"""Settings of the occupancy stage: where labels come from and every threshold on the way."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from pipelines.occupancy.layouts import LayoutName
from pipelines.occupancy.tuning import (
    EvidenceConfig,
    GroundFitConfig,
    GroundSurfaceConfig,
    HeightDriftConfig,
    SurfaceConfig,
)
from schemas.datasets import Format
from schemas.settings import Frozen


class Occ3dConfig(Frozen):
    """Import of published labels, one `labels.npz` per keyframe."""

    kind: LayoutName = Field("occ3d", description="Source: layout of the files, see `pipelines.occupancy.layouts`.")


class ImageLabels(Frozen):
    """Classes of camera pixels: they free voxels, and name points where nothing else does."""

    folder: str = Field(description="Below the dataset's root; holds `<scene>/<sample token>/<camera>.png`.")
    min_rays: int = Field(16, ge=1, description="A voxel becomes free if so many rays meet their class behind it.")
    name_points: bool = Field(
        True, description="Whether points of a scene without point labels take the class of the pixel they land in."
    )


class LidarConfig(Frozen):
    """Labels from sweeps, boxes and point labels; the defaults use all evidence and agree best with exact truth."""

    kind: Literal["lidar"] = Field("lidar", description="Source: LiDAR sweeps of the dataset.")
    window_keyframes: int = Field(
        10, ge=0, description="Static points come from so many keyframes before and after; nuScenes poses drift beyond."
    )
    cell_m: float = Field(0.1, gt=0, description="Static points within one cell of this edge become one, in metres.")
    ray_cell_m: float = Field(
        0.2, gt=0, description="Rays whose sensors and hits share cells of this edge become one, in metres."
    )
    ego_box_m: tuple[float, float, float, float, float, float] = Field(
        (-1.5, -1.3, -0.5, 4.0, 1.3, 2.6),
        description="Lower and upper corner (x, y, z, x, y, z) of the own vehicle, ego frame, metres; points in it go.",
    )
    box_margin_m: float = Field(
        0.15, ge=0, description="Boxes grow by this much on every side before points count as static, in metres."
    )
    box_bottom_m: float = Field(
        0.15, ge=0, description="Points without a label this low in a box are neither object nor ground, in metres."
    )
    height_drift: HeightDriftConfig = Field(
        HeightDriftConfig(), description="How the height that the poses of the vehicle miss is measured."
    )
    neighbours: int = Field(5, ge=1, description="Labelled neighbours that vote on a point without a label.")
    neighbour_radius_m: float = Field(
        6.0,
        gt=0,
        description="Neighbours farther away, in stretched metres (see `spread_labels`), do not vote; without one the "
        "point is ignored.",
    )
    neighbour_blur_m: float = Field(
        0.1, gt=0, description="Neighbours vote with a weight of 1 / (distance + this), in stretched metres."
    )
    height_stretch: float = Field(
        4.0,
        gt=0,
        description="How much more differences in height count when neighbours are looked for: classes change at kerbs "
        "and at the feet of walls.",
    )
    border_stretch: float = Field(
        5.0,
        ge=0,
        description="How much more differences in the distance to the border of the map's driveable area count when "
        "neighbours or the nearest ground are looked for: classes run along streets.",
    )
    ground_fit: GroundFitConfig = Field(
        GroundFitConfig(), description="How the ground is found where there are no point labels."
    )
    ground_band_m: float = Field(
        0.3, gt=0, description="Without point labels: points so near the fitted ground belong to it, in metres."
    )
    use_map: bool = Field(
        True,
        description="Whether ground without a point label of its own takes its class from along the border of the "
        "map's driveable area rather than from across it. Without any point labels the map is used in any case.",
    )
    fill_ground_m: float = Field(
        8.0, ge=0, description="The ground's surface reaches so far beyond its points, in metres."
    )
    ground_surface: GroundSurfaceConfig = Field(
        GroundSurfaceConfig(), description="How the ground's surface is fitted and sampled."
    )
    thing_weight: int = Field(
        4,
        ge=1,
        description="A point of anything else counts as much as so many samples of the ground's surface: LiDAR sees "
        "less than half of a thing's surface, and low things should not drown in the road.",
    )
    fill_surfaces: bool = Field(
        True,
        description="Whether voxels that rays passed are occupied where the plane of the points around them passes.",
    )
    surfaces: SurfaceConfig = Field(SurfaceConfig(), description="When a plane through points occupies a voxel.")
    evidence: EvidenceConfig | None = Field(
        None, description="When the rays of the keyframe's own sweep free occupied voxels; without it they never do."
    )
    mirror_vehicles: bool = Field(
        True,
        description="Whether the points of the class table's symmetric classes count on both sides of their boxes, "
        "whichever side was seen.",
    )
    free_above: int = Field(0, ge=0, description="A voxel is free if more than so many rays passed through it.")
    occupied_above: int = Field(0, ge=0, description="A voxel is occupied if it holds more than so many points.")
    ignore_ends_m: float = Field(
        0.0, ge=0, description="L1 distance to either end of a ray within which nothing becomes free, in metres."
    )
    ignore_above_road_m: float = Field(
        0.0, ge=0, description="Height above a hit on the ground within which its ray frees nothing, in metres."
    )
    stop_before_hit_m: float = Field(0.0, ge=0, description="Distance to the hit at which a ray ends, in metres.")
    far_rays: bool = Field(True, description="Whether rays that hit beyond the grid free voxels too.")
    rays_per_voxel: float = Field(
        1.5, gt=0, description="Camera rays across one voxel at the grid's far corner, side by side; rows are denser."
    )
    hide_things_only: bool = Field(
        False,
        description="Whether observed free space and ground always count as seen by the cameras, so that mask_camera "
        "leaves out only things that other things hide or that lie outside the images.",
    )
    visibility: Literal["cameras", "poses"] = Field(
        "cameras",
        exclude_if=lambda value: value == "cameras",
        description="What masks mean. cameras: mask_lidar what sweeps observed, mask_camera what the images see of it. "
        "poses: as SemanticKITTI's voxels, free and visible from the keyframe's LiDAR, and visible from the LiDAR of "
        "some keyframe within the window.",
    )
    image_labels: ImageLabels | None = Field(
        None, description="Classes of camera pixels that refine the labels, and name points without point labels."
    )


PRESET_OF_FORMAT: Final[dict[Format, str]] = {"nuscenes": "default", "semantickitti": "semantickitti"}
"""Preset for raw data of each format, unless another one is asked for."""
LIDAR_PRESETS: Final[dict[str, LidarConfig]] = {
    "default": LidarConfig(),
    "paper": LidarConfig(far_rays=False, use_map=False, fill_surfaces=False, mirror_vehicles=False, fill_ground_m=4.0),
    "release-like": LidarConfig(
        far_rays=False,
        use_map=False,
        fill_surfaces=False,
        mirror_vehicles=False,
        fill_ground_m=4.0,
        free_above=10,
        occupied_above=1,
        ignore_ends_m=1.0,
        ignore_above_road_m=1.0,
        stop_before_hit_m=0.4,
        hide_things_only=True,
    ),
    "evidence": LidarConfig(evidence=EvidenceConfig()),
    "semantickitti": LidarConfig(
        window_keyframes=15,
        ego_box_m=(-2.2, -1.0, -1.8, 2.0, 1.0, 0.2),
        height_drift=HeightDriftConfig(min_shared=10**9),
        use_map=False,
        visibility="poses",
    ),
}
"""`default` also uses the map, surfaces, the symmetry of vehicles and rays that hit beyond the grid.

`paper` follows Occ3D's text. `release-like`: also the thresholds of the published files, as far as anyone outside knows
them, and their camera mask. `evidence` is `default` without the voxels that the keyframe's own rays outvote.
`semantickitti` is for its sequences: the own vehicle lies below the LiDAR, poses know the height, and masks
mean what `.occluded` and `.invalid` mean.
"""


def preset_of(name: Format) -> LidarConfig:
    """Settings for raw data of a format."""
    return LIDAR_PRESETS[PRESET_OF_FORMAT[name]]
