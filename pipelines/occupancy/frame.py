"""Labels of one keyframe from accumulated sweeps and objects: votes, LiDAR visibility, camera visibility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

from pipelines.occupancy.accumulation import SweepGroup
from pipelines.occupancy.carving import CarveLimits, Segments, count_passes
from pipelines.occupancy.completion import ground_votes, sample_places
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.ground import MapMask
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.outvoted import outvoted_voxels
from pipelines.occupancy.refine import ClassImage, refuted_voxels
from pipelines.occupancy.surfaces import fill_surfaces
from pipelines.occupancy.votes import add_moving, count_sources, elect, gather_points
from schemas.datasets import DatasetSpec
from schemas.geometry import invert_rigid, transform_points
from schemas.records import SampleRecord
from schemas.voxels.lines_of_sight import see_around
from schemas.voxels.visibility import View, see_voxels


@dataclass(frozen=True)
class Scene:
    """What all frames of a scene share."""

    dataset: DatasetSpec
    config: LidarConfig
    anchor_m: Float64[np.ndarray, " 3"]
    objects: Mapping[str, Float32[np.ndarray, "_ 3"]]
    """Points of each instance over the whole scene, metres, box frame."""
    mask: MapMask | None
    """The map's driveable area, where it is used."""


@dataclass(frozen=True)
class Frame:
    """What one keyframe is labelled from."""

    record: SampleRecord
    own: SweepGroup
    """What the keyframe and the sweeps before it saw."""
    groups: Sequence[SweepGroup]
    """Static matter near it in time, ``own`` included."""
    drift_m: float
    """Height of the vehicle that its pose misses, contained in the positions of ``groups``."""
    images: Mapping[str, ClassImage]
    """Classes of the pixels of each camera, read if `LidarConfig.image_labels` is set."""


def label_frame(scene: Scene, frame: Frame) -> tuple[Labels, dict[str, float]]:
    """Occupancy of one keyframe.

    Args:
        scene: shared by all frames.
        frame: the keyframe.

    Returns:
        Labels as in Occ3D's files, with the numbers of the class table: unobserved voxels are free in `semantics`,
        occupied ones of unknown class have the ignored label; and the number of occupied voxels by what their class
        rests on.
    """
    grid, table, config = scene.dataset.grid, scene.dataset.classes, scene.config
    voxel_from_anchor = place_anchor(scene, frame.record, frame.drift_m)
    points = gather_points(
        scene.dataset, frame.record, frame.groups, scene.objects, voxel_from_anchor, mirror=config.mirror_vehicles
    )
    points = add_moving(points, frame.own, voxel_from_anchor, table)
    hit = points.counts > config.occupied_above
    border = _border_voxels(scene, np.linalg.inv(voxel_from_anchor))
    ground = ground_votes(points.static, points.static_labels, border, grid=grid, table=table, config=config)
    semantics = elect(points, ground, hit | (points.mirrored > config.occupied_above), table, config.thing_weight)
    passes = np.zeros(grid.shape, dtype=np.int32)
    for group in frame.groups:
        _carve(passes, group, voxel_from_anchor, scene)
    if config.fill_surfaces:
        votes = points.thing_votes(table)
        semantics = fill_surfaces(semantics, passes > config.free_above, points.things, votes, table, config.surfaces)
    found = points.counts + points.mirrored + ground.sum(axis=3, dtype=np.int32)
    outvoted = _outvoted(scene, table.is_occupied(semantics), found, frame.own, voxel_from_anchor)
    semantics[outvoted] = table.free
    views = camera_views(frame.record, scene.dataset.cameras)
    refuted = _refuted(scene, semantics, views, frame.images)
    semantics[refuted] = table.free
    occupied = table.is_occupied(semantics)
    observed = hit | outvoted | (passes > np.where(occupied, 0, config.free_above))
    if config.visibility == "poses":
        observed, scored = _seen_from_poses(occupied, frame, voxel_from_anchor)
    else:
        visible = see_voxels(grid, occupied, list(views.values()), config.rays_per_voxel)
        if config.hide_things_only:
            visible |= ~occupied | table.is_ground(semantics)
        scored = visible & observed
    labels = {
        "semantics": semantics,
        "mask_lidar": observed.astype(np.uint8),
        "mask_camera": scored.astype(np.uint8),
    }
    freed = {"freed_by_evidence": float(outvoted.sum())} if config.evidence is not None else {}
    freed |= {"freed_by_images": float(refuted.sum())} if frame.images else {}
    return labels, count_sources(semantics, points, table) | freed


def _seen_from_poses(
    occupied: Bool[np.ndarray, "X Y Z"], frame: Frame, voxel_from_anchor: Float64[np.ndarray, "4 4"]
) -> tuple[Bool[np.ndarray, "X Y Z"], Bool[np.ndarray, "X Y Z"]]:
    """What SemanticKITTI's `.occluded` and `.invalid` leave.

    Returns:
        Free voxels with a free line to the LiDAR of the keyframe, and voxels with one to that of some keyframe near it,
        the occupied ones that the line meets included.
    """
    own, free, surfaces = (np.zeros(occupied.shape, dtype=bool) for _ in range(3))
    origins = transform_points(voxel_from_anchor, np.array([group.lidar for group in frame.groups]))
    see_around(occupied, transform_points(voxel_from_anchor, frame.own.lidar[None])[0], own, surfaces)
    for origin in origins:
        see_around(occupied, origin, free, surfaces)
    return own, own | free | surfaces


def _outvoted(
    scene: Scene,
    occupied: Bool[np.ndarray, "X Y Z"],
    found: Int32[np.ndarray, "X Y Z"],
    own: SweepGroup,
    voxel_from_anchor: Float64[np.ndarray, "4 4"],
) -> Bool[np.ndarray, "X Y Z"]:
    if scene.config.evidence is None:
        return np.zeros(occupied.shape, dtype=bool)
    lidar = transform_points(voxel_from_anchor, own.lidar[None])[0]
    returns = transform_points(voxel_from_anchor, own.returns.astype(np.float64))
    return outvoted_voxels(occupied, found, lidar, returns, scene.config.evidence)


def _refuted(
    scene: Scene, semantics: UInt8[np.ndarray, "X Y Z"], views: Mapping[str, View], images: Mapping[str, ClassImage]
) -> Bool[np.ndarray, "X Y Z"]:
    if scene.config.image_labels is None:
        return np.zeros(semantics.shape, dtype=bool)
    return refuted_voxels(
        scene.dataset.grid,
        scene.dataset.classes,
        semantics,
        [(views[channel], image) for channel, image in images.items()],
        rays_per_voxel=scene.config.rays_per_voxel,
        min_rays=scene.config.image_labels.min_rays,
    )


def place_anchor(scene: Scene, record: SampleRecord, drift_m: float) -> Float64[np.ndarray, "4 4"]:
    """4x4 from metres around the scene's anchor to the voxels of a keyframe, whose vehicle is ``drift_m`` too low."""
    global_from_anchor = np.eye(4)
    global_from_anchor[:3, 3] = scene.anchor_m - np.array([0.0, 0.0, drift_m])
    return scene.dataset.grid.voxel_from_metres @ invert_rigid(record.global_from_ego) @ global_from_anchor


def _border_voxels(scene: Scene, anchor_from_voxel: Float64[np.ndarray, "4 4"]) -> Float32[np.ndarray, "w l"] | None:
    """Distance of each sample of the ground to the border of the map's driveable area, voxels, positive within."""
    if scene.mask is None:
        return None
    grid = scene.dataset.grid
    places = sample_places(grid.shape, scene.config.ground_surface.samples)
    distance_m = scene.mask.border_distance(transform_points(anchor_from_voxel, places.reshape(-1, 3)))
    return (distance_m / np.float32(grid.voxel_size_m)).reshape(places.shape[:2])


def _carve(
    passes: Int32[np.ndarray, "X Y Z"],
    group: SweepGroup,
    voxel_from_anchor: Float64[np.ndarray, "4 4"],
    scene: Scene,
) -> None:
    """Adds one group's rays to the count of passes."""
    rays, config, voxel_size_m = group.rays, scene.config, scene.dataset.grid.voxel_size_m
    segments, keep = carving_segments(group, voxel_from_anchor, passes.shape, far_rays=config.far_rays)
    on_ground = scene.dataset.classes.is_ground(group.labels)[rays.cell_of] & (rays.cell_of >= 0)
    limits = CarveLimits(
        config.ignore_ends_m / voxel_size_m,
        config.ignore_above_road_m / voxel_size_m,
        config.stop_before_hit_m / voxel_size_m,
    )
    count_passes(passes, segments, weights=rays.weights[keep], on_ground=on_ground[keep], limits=limits)


def carving_segments(
    group: SweepGroup, voxel_from_anchor: Float64[np.ndarray, "4 4"], shape: tuple[int, ...], *, far_rays: bool
) -> tuple[Segments, Bool[np.ndarray, " r"]]:
    """Rays of a group that free voxels of a keyframe, and which of its rays they are.

    Args:
        group: whose rays are cast.
        voxel_from_anchor: 4x4 to the voxels of the keyframe.
        shape: voxels along x, y, z.
        far_rays: see `LidarConfig.far_rays`.
    """
    origins, ends = (
        places @ voxel_from_anchor[:3, :3].T + voxel_from_anchor[:3, 3]
        for places in (group.rays.origins, group.rays.ends)
    )
    keep = np.ones(len(ends), dtype=bool) if far_rays else np.all((ends >= 0) & (ends < np.array(shape)), axis=1)
    return Segments(origins, group.rays.origin_of[keep], ends[keep]), keep


def camera_views(record: SampleRecord, cameras: Sequence[str]) -> dict[str, View]:
    """The keyframe's cameras, each at its own exposure."""
    views = {}
    for channel in cameras:
        camera = record.cameras[channel]
        ego_from_camera = invert_rigid(record.camera_from_ego(channel))
        views[channel] = View(np.array(camera.intrinsics, np.float64), camera.width, camera.height, ego_from_camera)
    return views
