"""Labels of one keyframe from the scene's chunks and objects: votes, LiDAR visibility, camera visibility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from pipelines.occupancy.chunks import Chunk, Rays
from pipelines.occupancy.completion import fill_ground
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.kernels import add_votes
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.semantics import is_ground_class
from pipelines.raycast import CarveLimits, count_passes, mark_visible
from schemas.classes import FREE, IGNORED
from schemas.datasets import DatasetSpec
from schemas.geometry import Pose, VoxelGrid, invert_rigid
from schemas.records import CameraRecord, SampleRecord

_IGNORED_SLOT = 17
_SLOTS = 18
_ROW_DENSITY = 4


@dataclass(frozen=True)
class Scene:
    """What all frames of a scene share."""

    dataset: DatasetSpec
    config: LidarConfig
    anchor_m: Float64[np.ndarray, " 3"]
    objects: Mapping[str, Float32[np.ndarray, "_ 3"]]
    """Points of each instance over the whole scene, metres, box frame."""


def label_frame(
    scene: Scene, record: SampleRecord, chunks: Sequence[Chunk], rise_m: float
) -> tuple[Labels, dict[str, float]]:
    """Occupancy of one keyframe.

    Args:
        scene: shared by all frames.
        record: the keyframe.
        chunks: static matter near it in time.
        rise_m: height of the vehicle that its pose misses, contained in the positions of ``chunks``.

    Returns:
        Labels as in Occ3D's files: unobserved voxels are 17 in `semantics`, occupied ones of unknown class 255; and the
        number of occupied voxels by what their class rests on.
    """
    grid, config = scene.dataset.grid, scene.config
    voxel_from_anchor = _voxel_from_ego(grid) @ invert_rigid(record.global_from_ego)
    voxel_from_anchor = voxel_from_anchor @ _shift(scene.anchor_m - np.array([0.0, 0.0, rise_m]))
    static, moved = _collect_votes(scene, record, chunks, voxel_from_anchor)
    semantics = _elect(static, moved, config.occupied_above)
    hit = semantics != FREE
    semantics = fill_ground(semantics, static, config.fill_ground_m / grid.voxel_size_m)
    passes = np.zeros(grid.shape, dtype=np.int32)
    for chunk in chunks:
        _carve(passes, chunk, voxel_from_anchor, config, grid.voxel_size_m)
    opaque = semantics != FREE
    observed = hit | (passes > np.where(opaque, 0, _least_passes(chunks, voxel_from_anchor, scene)))
    if config.porous_above is not None:
        opaque &= passes <= config.porous_above * (static.sum(axis=3) + moved.sum(axis=3))
    visible = see(record, scene.dataset.cameras, grid, opaque, config.rays_per_voxel) & observed
    labels = {
        "semantics": semantics,
        "mask_lidar": observed.astype(np.uint8),
        "mask_camera": visible.astype(np.uint8),
    }
    return labels, _count_sources(semantics, moved)


def _shift(offset_m: Float64[np.ndarray, " 3"]) -> Pose:
    pose = np.eye(4)
    pose[:3, 3] = offset_m
    return pose


def _voxel_from_ego(grid: VoxelGrid) -> Float64[np.ndarray, "4 4"]:
    """4x4 affine map from metres in the ego frame to voxel units."""
    matrix = np.diag([1 / grid.voxel_size_m] * 3 + [1.0])
    matrix[:3, 3] = -np.array(grid.minimum_m) / grid.voxel_size_m
    return matrix


def _collect_votes(
    scene: Scene, record: SampleRecord, chunks: Sequence[Chunk], voxel_from_anchor: Float64[np.ndarray, "4 4"]
) -> tuple[Int32[np.ndarray, "X Y Z 18"], Int32[np.ndarray, "X Y Z 18"]]:
    """Votes of static points and of object points, per voxel and class; slot 17 counts points of unknown class."""
    grid = scene.dataset.grid
    static, moved = (np.zeros((*grid.shape, _SLOTS), dtype=np.int32) for _ in range(2))
    for chunk in chunks:
        slots = np.where(chunk.labels == IGNORED, _IGNORED_SLOT, chunk.labels).astype(np.uint8)
        add_votes(static, chunk.cells, voxel_from_anchor, labels=slots, weights=chunk.weights)
    voxel_from_global = _voxel_from_ego(grid) @ invert_rigid(record.global_from_ego)
    for box in record.boxes:
        points = scene.objects.get(box.instance)
        if points is not None:
            add_votes(
                moved,
                points,
                voxel_from_global @ box.global_from_box.matrix,
                labels=np.full(len(points), box.label, dtype=np.uint8),
                weights=np.ones(len(points), dtype=np.int32),
            )
    return static, moved


def _elect(
    static: Int32[np.ndarray, "X Y Z 18"], moved: Int32[np.ndarray, "X Y Z 18"], occupied_above: int
) -> np.ndarray:
    """Majority per voxel; ties go to the lower class, a known one before the unknown; 17 where it is not occupied."""
    votes = static + moved
    winner = votes.argmax(axis=3).astype(np.uint8)
    winner[winner == _IGNORED_SLOT] = IGNORED
    winner[votes.sum(axis=3) <= occupied_above] = FREE
    return winner


def _least_passes(chunks: Sequence[Chunk], voxel_from_anchor: Float64[np.ndarray, "4 4"], scene: Scene) -> float:
    """Passes that a free voxel has more of."""
    sensors = np.concatenate([chunk.sensors for chunk in chunks])
    voxels = sensors @ voxel_from_anchor[:2, :3].T + voxel_from_anchor[:2, 3]
    within = np.all((voxels >= 0) & (voxels < np.array(scene.dataset.grid.shape[:2])), axis=1).sum()
    return max(float(scene.config.free_above), scene.config.free_per_sweep * float(within) - 0.5)


def _carve(
    passes: Int32[np.ndarray, "X Y Z"],
    chunk: Chunk,
    voxel_from_anchor: Float64[np.ndarray, "4 4"],
    config: LidarConfig,
    voxel_size_m: float,
) -> None:
    """Adds one chunk's rays to the count of passes."""
    rays: Rays = chunk.rays
    origins = rays.origins @ voxel_from_anchor[:3, :3].T + voxel_from_anchor[:3, 3]
    ends = rays.ends @ voxel_from_anchor[:3, :3].T + voxel_from_anchor[:3, 3]
    on_ground = is_ground_class(chunk.labels)[rays.cell_of] & (rays.cell_of >= 0)
    keep = np.ones(len(ends), dtype=bool)
    if not config.far_rays:
        keep = np.all((ends >= 0) & (ends < np.array(passes.shape)), axis=1)
    limits = CarveLimits(
        config.ignore_ends_m / voxel_size_m,
        config.ignore_above_road_m / voxel_size_m,
        config.stop_before_hit_m / voxel_size_m,
    )
    count_passes(
        passes,
        (origins, rays.origin_of[keep], ends[keep]),
        weights=rays.weights[keep],
        on_ground=on_ground[keep],
        limits=limits,
    )


def see(
    record: SampleRecord,
    cameras: Sequence[str],
    grid: VoxelGrid,
    occupied: Bool[np.ndarray, "X Y Z"],
    rays_per_voxel: float,
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that the keyframe's whole camera images see: up to and including the first occupied one of each ray.

    Args:
        record: cameras with intrinsics and poses, time offsets included.
        cameras: channel names.
        grid: of ``occupied``.
        occupied: what stops a ray.
        rays_per_voxel: rays across a voxel at the grid's farthest corner.
    """
    visible = np.zeros(grid.shape, dtype=bool)
    reach_m = float(np.abs([grid.minimum_m[:2], grid.maximum_m[:2]]).max() * np.sqrt(2))
    for channel in cameras:
        camera = record.cameras[channel]
        focal_px = max(camera.intrinsics[0][0], camera.intrinsics[1][1])
        spacing_px = focal_px * grid.voxel_size_m / reach_m / rays_per_voxel
        ego_from_camera = invert_rigid(record.camera_from_ego(channel))
        origin = (ego_from_camera[:3, 3] - np.array(grid.minimum_m)) / grid.voxel_size_m
        mark_visible(visible, occupied, origin, image_rays(camera, spacing_px) @ ego_from_camera[:3, :3].T)
    return visible


def image_rays(camera: CameraRecord, spacing_px: float) -> Float64[np.ndarray, "r 3"]:
    """Unit vectors, camera frame, spread evenly over the whole image, `_ROW_DENSITY` times as dense from row to row.

    The spacing belongs to the voxels, not to the pixels: labels do not depend on the size of the image files, and rays
    that graze the ground still meet every voxel of it.
    """
    u_px = _middles(camera.width, spacing_px)
    v_px = _middles(camera.height, spacing_px / _ROW_DENSITY)
    pixels = np.stack(np.meshgrid(u_px, v_px), axis=-1).reshape(-1, 2)
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    rays = np.linalg.solve(np.array(camera.intrinsics, dtype=np.float64), homogeneous.T).T
    return np.ascontiguousarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _middles(length_px: int, spacing_px: float) -> Float64[np.ndarray, " n"]:
    """Middles of equal parts of ``length_px`` that are at most ``spacing_px`` long."""
    count = int(np.ceil(length_px / spacing_px))
    return (np.arange(count) + 0.5) * (length_px / count)


def _count_sources(semantics: np.ndarray, moved: Int32[np.ndarray, "X Y Z 18"]) -> dict[str, float]:
    """Occupied voxels whose class rests on boxes, on static matter, on nothing."""
    known = (semantics != FREE) & (semantics != IGNORED)
    slot = np.where(known, semantics, 0).astype(np.int64)
    by_box = known & (np.take_along_axis(moved, slot[..., None], axis=3)[..., 0] > 0)
    return {
        "voxels_occupied": float((semantics != FREE).sum()),
        "voxels_boxes": float(by_box.sum()),
        "voxels_static": float((known & ~by_box).sum()),
        "voxels_ignored": float((semantics == IGNORED).sum()),
    }
