"""One LiDAR sweep, taken apart: static points and points of annotated objects, the own vehicle and noise left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.height_drift import HeightDrift, measure_height_drift
from pipelines.occupancy.kernels import IN_BOX, OUTSIDE, assign_boxes
from pipelines.occupancy.tracks import Track, boxes_at, tracks_of
from pipelines.points import NOT_MATTER, UNLABELLED, class_of_index, read_moving, read_point_labels, read_points
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.geometry import invert_rigid, transform_points
from schemas.records import LidarRecord, SampleRecord

Paint = Callable[[Float64[np.ndarray, "n 3"]], UInt8[np.ndarray, " n"]]


@dataclass(frozen=True)
class Sweep:
    """Points of one sweep that are matter; positions in metres from the scene's anchor, global axes."""

    points: Float64[np.ndarray, "n 3"]
    labels: UInt8[np.ndarray, " n"]
    is_static: Bool[np.ndarray, " n"]
    origin: Float64[np.ndarray, " 3"]
    """Position of the sensor."""
    objects: Mapping[str, Float32[np.ndarray, "_ 3"]]
    """Points of each instance, metres, box frame."""
    is_moving: Bool[np.ndarray, " n"]
    """Points of things that move, as far as point labels say so; they are not static."""


@dataclass(frozen=True)
class SweepReader:
    """Reads sweeps of one scene."""

    dataset: DatasetSpec
    config: LidarConfig
    tracks: Sequence[Track]
    anchor_m: Float64[np.ndarray, " 3"]
    """Global position that all stored positions are relative to."""
    reach_us: int
    """How long boxes are extrapolated."""
    table: UInt8[np.ndarray, " k"] | None
    """Class of each point-label index; None where the dataset has no point labels."""
    drift: HeightDrift
    """At any time of the scene; all positions but those of objects contain it."""

    def read(self, lidar: LidarRecord, token: str, paint: Paint | None = None) -> Sweep:
        """One sweep.

        Args:
            lidar: its file.
            token: of its keyframe, for messages.
            paint: gives points (n, 3), LiDAR frame, their classes where the dataset has no point labels.

        Raises:
            DataError: a file of the sweep is missing or broken.
        """
        points_lidar = read_points(self.dataset, lidar, token)
        labels = np.full(len(points_lidar), UNLABELLED, dtype=np.uint8)
        if self.table is not None:
            labels = read_point_labels(self.dataset, lidar, token, self.table, len(points_lidar))
        elif paint is not None:
            labels = paint(points_lidar)
        moving = read_moving(self.dataset, lidar, token, len(points_lidar))
        points_ego = transform_points(lidar.ego_from_lidar.matrix, points_lidar)
        corner = np.array(self.config.ego_box_m)
        is_ego = np.all((points_ego >= corner[:3]) & (points_ego <= corner[3:]), axis=1)
        keep = ~is_ego & (labels != NOT_MATTER)
        anchored = lidar.global_from_lidar
        anchored[:3, 3] -= self.anchor_m
        points, labels = transform_points(anchored, points_lidar[keep]), labels[keep]
        moving = moving[keep]
        is_static, objects = self._split(points, labels, lidar.timestamp_us)
        lift = np.array([0.0, 0.0, self.drift.at(lidar.timestamp_us)])
        return Sweep(points + lift, labels, is_static & ~moving, anchored[:3, 3] + lift, objects, moving)

    def _split(
        self, points: Float64[np.ndarray, "n 3"], labels: UInt8[np.ndarray, " n"], time_us: int
    ) -> tuple[Bool[np.ndarray, " n"], dict[str, Float32[np.ndarray, "_ 3"]]]:
        """Which points are static, and the points of each object.

        In a box or its margin a point of the table's stuff or ground is static, one of another class is the box's.
        Points without a label are the box's inside it and dropped in the margin: ground, dust or object.
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
        table = self.dataset.classes
        is_stuff = np.isin(labels, table.labels_of(table.stuff + table.ground))
        is_thing = ~is_stuff & (labels < NOT_MATTER)
        is_static: Bool[np.ndarray, " n"] = (place == OUTSIDE) | is_stuff
        belongs = ~is_static & ((place == IN_BOX) | is_thing)
        objects = {}
        for box in np.unique(owner[belongs]):
            if boxes.is_certain[box]:
                inside = points[belongs & (owner == box)]
                objects[boxes.instances[box]] = transform_points(box_from_points[box], inside).astype(np.float32)
        return is_static, objects


def _box_from_anchor(
    global_from_box: Float64[np.ndarray, "4 4"], anchor_m: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "4 4"]:
    anchored = global_from_box.copy()
    anchored[:3, 3] -= anchor_m
    return invert_rigid(anchored)


def make_reader(dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord]) -> SweepReader:
    """Reader for the sweeps of one scene.

    Args:
        dataset: root, class table.
        config: thresholds.
        records: keyframes of the scene, in order of time.

    Raises:
        DataError: a box has no positive size, or `category.json` does not explain the point labels.
    """
    times = [record.keyframe_sweep.timestamp_us for record in records]
    anchor = np.array(records[0].keyframe_sweep.global_from_ego.translation_m, dtype=np.float64)
    has_labels = any(record.keyframe_sweep.labels_path is not None for record in records)
    return SweepReader(
        dataset=dataset,
        config=config,
        tracks=tracks_of(records),
        anchor_m=anchor,
        reach_us=max((b - a for a, b in zip(times, times[1:], strict=False)), default=0),
        table=class_of_index(dataset) if has_labels else None,
        drift=_measure_drift(dataset, config, records, anchor),
    )


def _measure_drift(
    dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord], anchor_m: Float64[np.ndarray, " 3"]
) -> HeightDrift:
    """Drift over the keyframes whose files can be read; the others are reported when their turn comes."""
    times, clouds = [], []
    for record in records:
        try:
            points = read_points(dataset, record.keyframe_sweep, record.token)
        except DataError:
            continue
        times.append(record.keyframe_sweep.timestamp_us)
        clouds.append(transform_points(record.keyframe_sweep.global_from_lidar, points) - anchor_m)
    return measure_height_drift(times, clouds, config.height_drift)
