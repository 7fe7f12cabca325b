"""Do labels agree with the measurements? Returns of the LiDAR and annotated boxes against what camera rays meet first.

Source: the 3D-2D consistency check of Occ3D (arXiv 2304.14365), section 4. Real data has no class per pixel; annotated
boxes stand in for them: the nearest box on a pixel's ray gives the class that its first occupied voxel should have.

A share of what was measured (a recall) is perfect where everything is occupied; so each has a precision beside it, a
share of what the labels claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from scipy.ndimage import binary_dilation

from pipelines.occupancy.config import preset_of
from pipelines.occupancy.depth import DepthErrors, depth_errors, floor_errors
from pipelines.occupancy.first_hit import CameraRays, boxes_along, camera_rays, labels_along
from pipelines.occupancy.grid_frame import in_grid_frame
from pipelines.occupancy.stored import dropped_tokens, each_scene, labelled_rows, open_labels, stored_labels
from pipelines.points import NOT_MATTER, class_of_index, read_point_labels, read_points, require_lidar
from pipelines.scheduler import Scheduler
from pipelines.stage import Unit
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.geometry import Pose, VoxelGrid, invert_rigid, transform_points
from schemas.records import BoxRecord, SampleRecord
from schemas.voxels.visibility import mark_passed
from schemas.workfolder import WorkFolder

STEP_PX: Final = 8.0
"""Every ray stands for a square of so many pixels of the camera's file."""
DEPTH_RATIO: Final = 1.25
"""Two distances are alike if neither is more than so many times the other, as usual for depth maps (delta < 1.25)."""
OUTCOMES: Final = ("right", "other", "hidden", "through")
"""First occupied voxel of a box pixel: in the box with its class; in the box with another one; before the box; none in
the box (the ray passes beside the object's body, or the object is not labelled)."""


@dataclass(frozen=True)
class Check:
    """Counts over keyframes; add two with `+`."""

    keyframes: int = 0
    returns: int = 0
    """LiDAR returns of the keyframes themselves within the grid, without those from the own vehicle and noise."""
    returns_occupied: int = 0
    """Of these, in an occupied voxel."""
    views: int = 0
    """Pairs of such a return and a camera image that it falls into."""
    views_agree: int = 0
    """Of these: the camera's ray to the return meets its first voxel at a distance that differs by at most a quarter
    (rays that graze the ground enter its voxels metres before they meet it)."""
    pixels: Mapping[int, Int64[np.ndarray, " 4"]] = field(default_factory=dict)
    """Box pixels by class and outcome."""
    per_row: Mapping[int, float] = field(default_factory=dict)
    """Share of right box pixels of each keyframe; NaN without box pixels."""
    touched: int = 0
    """Occupied voxels that the LiDAR's rays to those returns pass or end in."""
    touched_returns: int = 0
    """Of these, with a return in themselves or in one of their 26 neighbours: rays that graze the ground pass more."""
    views_met: int = 0
    """Of ``views``: the ray meets an occupied voxel at all."""
    things: Mapping[int, Int64[np.ndarray, " 2"]] = field(default_factory=dict)
    """Camera pixels of keyframes with boxes whose first voxel is of a class of things, by that class: all of them, and
    those within a box of this class."""
    depth: DepthErrors = DepthErrors()
    """Depth of the labels along the LiDAR's own rays."""
    depth_floor: DepthErrors = DepthErrors()
    """The same of the voxels that hold the returns: what the size of the voxels costs."""

    def __add__(self, other: Check) -> Check:
        return Check(
            self.keyframes + other.keyframes,
            self.returns + other.returns,
            self.returns_occupied + other.returns_occupied,
            self.views + other.views,
            self.views_agree + other.views_agree,
            _add(self.pixels, other.pixels),
            {**self.per_row, **other.per_row},
            self.touched + other.touched,
            self.touched_returns + other.touched_returns,
            self.views_met + other.views_met,
            _add(self.things, other.things),
            self.depth + other.depth,
            self.depth_floor + other.depth_floor,
        )

    @property
    def typical_row(self) -> int:
        """Row in the middle of those with box pixels, ordered by their share of right ones; any row without those."""
        counted = {row: share for row, share in self.per_row.items() if not np.isnan(share)} or dict(self.per_row)
        rows = sorted(counted, key=lambda row: (counted[row], row))
        return rows[len(rows) // 2]

    @property
    def figures(self) -> dict[str, float | None]:
        """Each share with its precision; None where nothing was to be counted."""
        total = sum((counts.sum() for counts in self.pixels.values()), 0)
        right = sum((counts[0] for counts in self.pixels.values()), 0)
        claimed = [counts for label, counts in self.things.items() if label in self.pixels]
        pairs = {
            "lidar_hit_share": (self.returns_occupied, self.returns),
            "lidar_hit_precision": (self.touched_returns, self.touched),
            "depth_share": (self.views_agree, self.views),
            "depth_precision": (self.views_agree, self.views_met),
            "box_pixel_share": (right, total),
            "box_pixel_precision": (sum(counts[1] for counts in claimed), sum(counts[0] for counts in claimed)),
        }
        return {name: float(part / whole) if whole else None for name, (part, whole) in pairs.items()}


def _add(
    first: Mapping[int, Int64[np.ndarray, " k"]], second: Mapping[int, Int64[np.ndarray, " k"]]
) -> dict[int, Int64[np.ndarray, " k"]]:
    """Sums by label."""
    total = dict(first)
    for label, counts in second.items():
        total[label] = total[label] + counts if label in total else counts
    return dict(sorted(total.items()))


def check_labels(
    dataset: DatasetSpec,
    work: Path,
    *,
    scheduler: Scheduler,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Checks every labelled keyframe of `work/occupancy.zarr` against its own LiDAR sweep, boxes and cameras.

    Raises:
        DataError: the store is not finished or holds nothing, or a LiDAR file is broken.
        ConfigError: the dataset has no LiDAR.
    """
    require_lidar(dataset, "--check")
    task = partial(_check_scene, dataset, work, dropped_tokens(dataset, work))
    parts = {unit.entries[0].row: part for unit, part in each_scene(work, task, scheduler, on_progress)}
    check = sum((parts[start] for start in sorted(parts)), Check())
    if not check.keyframes:
        raise DataError(f"{WorkFolder(work).occupancy} holds no labels; run `protoocc occupancy` first")
    return check


def _check_scene(dataset: DatasetSpec, work: Path, dropped: frozenset[str], unit: Unit) -> Check:
    check, store = Check(), open_labels(work)
    for row, record in labelled_rows(work, unit, dropped):
        check = check + check_keyframe(dataset, record, stored_labels(store, row, record.token)["semantics"], row)
    return check


def check_keyframe(
    dataset: DatasetSpec, record: SampleRecord, semantics: UInt8[np.ndarray, "X Y Z"], row: int
) -> Check:
    """Counts of one keyframe.

    Args:
        dataset: root, grid, cameras, class table.
        record: the keyframe.
        semantics: its labels.
        row: its number, for `Check.per_row`.
    """
    points = matter_of(dataset, record)
    record = in_grid_frame(record, dataset.grid)
    lidar = record.keyframe_sweep.ego_from_lidar.matrix[:3, 3]
    index = dataset.grid.voxel_index(points)
    inside = dataset.grid.contains(index)
    occupied = dataset.classes.is_occupied(semantics)
    views, met, agree = _compare_depths(dataset, record, semantics, points[inside])
    touched, touched_returns = _touched_voxels(dataset, record, semantics, points)
    pixels, things = _count_pixels(dataset, record, semantics)
    counted = sum((counts for counts in pixels.values()), np.zeros(len(OUTCOMES), dtype=np.int64))
    return Check(
        keyframes=1,
        returns=int(inside.sum()),
        returns_occupied=int(occupied[tuple(index[inside].T)].sum()),
        views=views,
        views_agree=agree,
        pixels=pixels,
        per_row={row: float(counted[0] / counted.sum()) if counted.sum() else float("nan")},
        touched=touched,
        touched_returns=touched_returns,
        views_met=met,
        things=things,
        depth=depth_errors(occupied, dataset.grid, lidar, points),
        depth_floor=floor_errors(dataset.grid, lidar, points),
    )


def matter_of(dataset: DatasetSpec, record: SampleRecord) -> Float64[np.ndarray, "n 3"]:
    """Points of the keyframe's own sweep without the own vehicle's and, where labelled, noise; metres, grid's frame."""
    points_lidar = read_points(dataset, record.keyframe_sweep, record.token)
    points = transform_points(record.keyframe_sweep.ego_from_lidar.matrix, points_lidar)
    corner = np.array(preset_of(dataset.format).ego_box_m)
    keep = ~np.all((points >= corner[:3]) & (points <= corner[3:]), axis=1)
    if record.keyframe_sweep.labels_path is not None:
        table = class_of_index(dataset)
        keep &= read_point_labels(dataset, record.keyframe_sweep, record.token, table, len(points)) != NOT_MATTER
    return points[keep] if dataset.grid.frame == "ego" else points_lidar[keep].astype(np.float64)


def _compare_depths(
    dataset: DatasetSpec,
    record: SampleRecord,
    semantics: UInt8[np.ndarray, "X Y Z"],
    points: Float64[np.ndarray, "n 3"],
) -> tuple[int, int, int]:
    """Pairs of return and image, those whose ray meets a voxel, those that meet it about as far away as the return."""
    views = met = agree = 0
    for channel in dataset.cameras:
        camera = record.cameras[channel]
        camera_from_ego = record.camera_from_ego(channel)
        points_camera = transform_points(camera_from_ego, points)
        image = points_camera @ np.array(camera.intrinsics).T
        uv_px = image[:, :2] / np.where(points_camera[:, 2:] > 0, image[:, 2:], np.nan)
        seen = np.all((uv_px >= 0) & (uv_px < [camera.width, camera.height]), axis=1)
        origin = invert_rigid(camera_from_ego)[:3, 3]
        offsets = points[seen] - origin
        distance_m = np.linalg.norm(offsets, axis=1)
        directions = offsets / distance_m[:, None]
        _, hit_m = labels_along(semantics, dataset.grid, origin, directions, free=dataset.classes.free)
        views += int(seen.sum())
        met += int(np.isfinite(hit_m).sum())
        agree += int((np.maximum(hit_m / distance_m, distance_m / np.maximum(hit_m, 1e-9)) < DEPTH_RATIO).sum())
    return views, met, agree


def _touched_voxels(
    dataset: DatasetSpec,
    record: SampleRecord,
    semantics: UInt8[np.ndarray, "X Y Z"],
    points: Float64[np.ndarray, "n 3"],
) -> tuple[int, int]:
    """Occupied voxels that rays of the keyframe's sweep pass or end in, and those of them at or beside a return."""
    grid = dataset.grid
    low_m = np.array(grid.minimum_m)
    origin = (record.keyframe_sweep.ego_from_lidar.matrix[:3, 3] - low_m) / grid.voxel_size_m
    touched, hit = np.zeros(grid.shape, dtype=bool), np.zeros(grid.shape, dtype=bool)
    ends = np.ascontiguousarray((points - low_m) / grid.voxel_size_m)
    mark_passed(touched, origin, ends, np.ones(len(ends), dtype=bool))
    index = grid.voxel_index(points)
    hit[tuple(index[grid.contains(index)].T)] = True
    touched &= dataset.classes.is_occupied(semantics)
    return int(touched.sum()), int((touched & binary_dilation(hit, np.ones((3, 3, 3)))).sum())


def _count_pixels(
    dataset: DatasetSpec, record: SampleRecord, semantics: UInt8[np.ndarray, "X Y Z"]
) -> tuple[dict[int, Int64[np.ndarray, " 4"]], dict[int, Int64[np.ndarray, " 2"]]]:
    """Box pixels by class and outcome, and `Check.things`.

    Boxes without a LiDAR point or with a middle outside the grid ask for nothing, but may be what a thing belongs to.
    """
    ego_from_global = invert_rigid(record.global_from_ego)
    asking = [box for box in record.boxes if box.num_lidar_pts > 0 and _is_inside(box, ego_from_global, dataset.grid)]
    others = [box for box in record.boxes if box not in asking]
    pixels: dict[int, Int64[np.ndarray, " 4"]] = {}
    things: dict[int, Int64[np.ndarray, " 2"]] = {}
    for channel in dataset.cameras if record.boxes else ():
        view = camera_rays(record, channel, STEP_PX)
        labels, hit_m = labels_along(semantics, dataset.grid, view.origin, view.directions, free=dataset.classes.free)
        outcome, expected = _outcomes(view, asking, ego_from_global, labels, hit_m, dataset.grid.voxel_size_m)
        spare, _ = _outcomes(view, others, ego_from_global, labels, hit_m, dataset.grid.voxel_size_m)
        asked = np.unique(expected[outcome >= 0]).tolist()
        pixels = _add(pixels, {label: _count(outcome[expected == label]) for label in asked})
        is_right = (outcome == 0) | (spare == 0)
        claims = {label: labels == label for label in _things(dataset.classes, labels)}
        things = _add(things, {k: np.array([is_k.sum(), (is_k & is_right).sum()]) for k, is_k in claims.items()})
    return pixels, things


def _things(table: ClassTable, labels: UInt8[np.ndarray, " r"]) -> list[int]:
    """Classes among some labels that boxes describe."""
    nothing = (table.free, table.ignored, *table.labels_of(table.stuff).tolist())
    return [label for label in np.unique(labels).tolist() if label not in nothing]


def _count(outcome: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " 4"]:
    return np.bincount(outcome, minlength=len(OUTCOMES))


def _outcomes(
    view: CameraRays,
    boxes: list[BoxRecord],
    ego_from_global: Pose,
    labels: UInt8[np.ndarray, " r"],
    hit_m: Float64[np.ndarray, " r"],
    slack_m: float,
) -> tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " r"]]:
    """Position in `OUTCOMES` of each ray, -1 where it meets no box, and the class of the box."""
    owner, span_m = boxes_along(view, boxes, ego_from_global)
    expected = np.array([*(box.label for box in boxes), -1], dtype=np.int64)[owner]
    outcome = np.where(labels == expected, 0, 1)
    outcome[hit_m < span_m[:, 0] - slack_m] = 2
    outcome[hit_m > span_m[:, 1] + slack_m] = 3
    return np.where(owner >= 0, outcome, -1), expected


def _is_inside(box: BoxRecord, ego_from_global: Pose, grid: VoxelGrid) -> bool:
    middle = transform_points(ego_from_global, np.array([box.global_from_box.translation_m], dtype=np.float64))
    return bool(grid.contains(grid.voxel_index(middle))[0])
