"""One keyframe with its sweeps, taken apart: static cells, rays, and points that belong to objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.heights import Heights, measure_heights
from pipelines.occupancy.kernels import IN_BOX, OUTSIDE, assign_boxes, cell_means, share_cells
from pipelines.occupancy.points import NOT_MATTER, UNLABELLED, class_of_index, read_point_labels, read_points
from pipelines.occupancy.tracks import Track, boxes_at, tracks_of
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.geometry import invert_rigid, transform_points
from schemas.records import LidarRecord, SampleRecord

_FIRST_STUFF: Final = 11


@dataclass(frozen=True)
class Rays:
    """What the LiDAR looked through; positions in metres from the scene's anchor, global axes."""

    origins: Float64[np.ndarray, "o 3"]
    origin_of: Int64[np.ndarray, " r"]
    ends: Float32[np.ndarray, "r 3"]
    weights: Int32[np.ndarray, " r"]
    """Measured rays that each one stands for."""
    cell_of: Int64[np.ndarray, " r"]
    """Static cell that the ray hits, -1 for objects."""


@dataclass(frozen=True)
class Chunk:
    """Static matter that a keyframe and the sweeps before it saw; positions as in `Rays`."""

    cells: Float32[np.ndarray, "c 3"]
    """Mean of the points of each cell."""
    weights: Int32[np.ndarray, " c"]
    """Number of points of each cell."""
    labels: UInt8[np.ndarray, " c"]
    """Majority of the cell's own point labels, `UNLABELLED` without any."""
    rays: Rays
    sensors: Float64[np.ndarray, "s 3"]
    """Sensor position of each sweep."""
    objects: dict[str, Float32[np.ndarray, "_ 3"]]
    """Points of each instance, metres, box frame."""


@dataclass(frozen=True)
class _Sweep:
    """Points of one sweep that are matter, not the own vehicle."""

    points: Float64[np.ndarray, "n 3"]
    labels: UInt8[np.ndarray, " n"]
    is_static: Bool[np.ndarray, " n"]
    origin: Float64[np.ndarray, " 3"]


@dataclass(frozen=True)
class ChunkReader:
    """Reads keyframes of one scene."""

    dataset: DatasetSpec
    config: LidarConfig
    tracks: Sequence[Track]
    anchor_m: Float64[np.ndarray, " 3"]
    """Global position that all stored positions are relative to."""
    reach_us: int
    """How long boxes are extrapolated."""
    table: UInt8[np.ndarray, " 256"] | None
    """Class of each point-label index; None where the dataset has no point labels."""
    heights: Heights
    """Of the vehicle, at any time of the scene; all positions but those of objects contain them."""

    def read(self, record: SampleRecord) -> Chunk:
        """The keyframe and its sweeps.

        Raises:
            DataError: a file of the keyframe or of one of its sweeps is missing or broken.
        """
        objects: dict[str, list[Float32[np.ndarray, "_ 3"]]] = {}
        sweeps = [self._read_sweep(lidar, record.token, objects) for lidar in (*record.sweeps, record.keyframe_sweep)]
        points = np.concatenate([sweep.points for sweep in sweeps])
        labels = np.concatenate([sweep.labels for sweep in sweeps])
        is_static = np.concatenate([sweep.is_static for sweep in sweeps])
        sweep_of = np.repeat(np.arange(len(sweeps)), [len(sweep.points) for sweep in sweeps])
        static = points[is_static]
        first, cell_of_static = share_cells(static, self.config.cell_m, np.zeros(len(static), dtype=np.int64))
        cells, weights = cell_means(static, cell_of_static, len(first))
        cell_of = np.full(len(points), -1, dtype=np.int64)
        cell_of[is_static] = cell_of_static
        sensors = np.array([sweep.origin for sweep in sweeps])
        return Chunk(
            cells=cells.astype(np.float32),
            weights=weights,
            labels=majority_labels(cell_of_static, labels[is_static], len(cells)),
            rays=self._rays(points, sensors, sweep_of, cell_of),
            sensors=sensors,
            objects={name: np.concatenate(parts) for name, parts in objects.items()},
        )

    def _read_sweep(
        self, lidar: LidarRecord, token: str, objects: dict[str, list[Float32[np.ndarray, "_ 3"]]]
    ) -> _Sweep:
        points_lidar = read_points(self.dataset, lidar, token)
        labels = np.full(len(points_lidar), UNLABELLED, dtype=np.uint8)
        if self.table is not None:
            labels = read_point_labels(self.dataset, lidar, token, self.table, len(points_lidar))
        points_ego = transform_points(lidar.ego_from_lidar.matrix, points_lidar)
        corner = np.array(self.config.ego_box_m)
        is_ego = np.all((points_ego >= corner[:3]) & (points_ego <= corner[3:]), axis=1)
        keep = ~is_ego & (labels != NOT_MATTER)
        anchored = lidar.global_from_lidar
        anchored[:3, 3] -= self.anchor_m
        points, labels = transform_points(anchored, points_lidar[keep]), labels[keep]
        is_static = self._take_objects(points, labels, lidar.timestamp_us, objects)
        lift = np.array([0.0, 0.0, self.heights.at(lidar.timestamp_us)])
        return _Sweep(points + lift, labels, is_static, anchored[:3, 3] + lift)

    def _take_objects(
        self,
        points: Float64[np.ndarray, "n 3"],
        labels: UInt8[np.ndarray, " n"],
        time_us: int,
        objects: dict[str, list[Float32[np.ndarray, "_ 3"]]],
    ) -> Bool[np.ndarray, " n"]:
        """Appends points in boxes to ``objects`` and returns which points are static.

        In a box or its margin a point with a label of ground or background is static, with a label of an object it is
        the box's. Points without a label are the box's inside it and dropped in the margin: ground, dust or object.
        """
        boxes = boxes_at(self.tracks, time_us, self.reach_us)
        box_from_points = np.array([_box_from_anchor(pose, self.anchor_m) for pose in boxes.global_from_box])
        box_from_points = box_from_points.reshape(-1, 4, 4)
        owner, place = assign_boxes(
            points,
            box_from_points,
            boxes.half_size_m,
            margin_m=self.config.box_margin_m,
            bottom_m=self.config.box_bottom_m,
        )
        is_stuff = (labels >= _FIRST_STUFF) & (labels < NOT_MATTER)
        is_thing = labels < _FIRST_STUFF
        is_static: Bool[np.ndarray, " n"] = (place == OUTSIDE) | is_stuff
        belongs = ~is_static & ((place == IN_BOX) | is_thing)
        for box in np.unique(owner[belongs]):
            if boxes.is_certain[box]:
                inside = points[belongs & (owner == box)]
                points_box = transform_points(box_from_points[box], inside).astype(np.float32)
                objects.setdefault(boxes.instances[box], []).append(points_box)
        return is_static

    def _rays(
        self,
        points: Float64[np.ndarray, "n 3"],
        origins: Float64[np.ndarray, "s 3"],
        sweep_of: Int64[np.ndarray, " n"],
        cell_of: Int64[np.ndarray, " n"],
    ) -> Rays:
        """Merges rays whose sensor positions and hits share cells."""
        first_sweep, place_of_sweep = share_cells(
            origins, self.config.ray_cell_m, np.zeros(len(origins), dtype=np.int64)
        )
        place_of = place_of_sweep[sweep_of]
        first, ray_of = share_cells(points, self.config.ray_cell_m, place_of)
        ends, weights = cell_means(points, ray_of, len(first))
        return Rays(origins[first_sweep], place_of[first], ends.astype(np.float32), weights, cell_of[first])


def _box_from_anchor(
    global_from_box: Float64[np.ndarray, "4 4"], anchor_m: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "4 4"]:
    anchored = global_from_box.copy()
    anchored[:3, 3] -= anchor_m
    return invert_rigid(anchored)


def majority_labels(
    cell_of: Int64[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"], count: int
) -> UInt8[np.ndarray, " c"]:
    """Most frequent class 0..16 of each cell; the lower class wins a tie, `UNLABELLED` where no point has a class."""
    known = labels < NOT_MATTER
    votes = np.bincount(cell_of[known] * 17 + labels[known], minlength=count * 17).reshape(count, 17)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), UNLABELLED).astype(np.uint8)


def make_reader(dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord]) -> ChunkReader:
    """Reader for one scene's keyframes, in order of time.

    Raises:
        DataError: a box has no positive size, or `category.json` does not explain the point labels.
    """
    times = [record.keyframe_sweep.timestamp_us for record in records]
    anchor = np.array(records[0].keyframe_sweep.global_from_ego.translation_m, dtype=np.float64)
    has_labels = any(record.keyframe_sweep.labels_path is not None for record in records)
    return ChunkReader(
        dataset=dataset,
        config=config,
        tracks=tracks_of(records),
        anchor_m=anchor,
        reach_us=max((b - a for a, b in zip(times, times[1:], strict=False)), default=0),
        table=class_of_index(dataset) if has_labels else None,
        heights=_heights(dataset, records, anchor),
    )


def _heights(dataset: DatasetSpec, records: Sequence[SampleRecord], anchor_m: Float64[np.ndarray, " 3"]) -> Heights:
    """Heights from the keyframes whose files can be read; the others are reported when their turn comes."""
    times, clouds = [], []
    for record in records:
        try:
            points = read_points(dataset, record.keyframe_sweep, record.token)
        except DataError:
            continue
        times.append(record.keyframe_sweep.timestamp_us)
        clouds.append(transform_points(record.keyframe_sweep.global_from_lidar, points) - anchor_m)
    return measure_heights(times, clouds)
