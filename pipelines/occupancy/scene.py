"""Labels of a whole scene from its sweeps, boxes and point labels: one pass over the files, then frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from pipelines.occupancy.accumulation import SweepGroup, accumulate_keyframe
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.frame import Frame, Scene, label_frame
from pipelines.occupancy.ground import MapMask, fit_ground, read_map_mask
from pipelines.occupancy.height_drift import HeightDrift
from pipelines.occupancy.kernels import share_cells
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.painting import paint_points
from pipelines.occupancy.refine import ClassImage, class_folder, read_class_images
from pipelines.occupancy.semantics import label_by_map, spread_labels
from pipelines.occupancy.sweep import Paint, SweepReader, make_reader
from pipelines.points import UNLABELLED, kind_of_point_labels
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord

logger = logging.getLogger(__name__)

WITHOUT_PICTURES: Final = "keyframes_without_pictures"
"""Count of keyframes that lack class images of some cameras."""


@dataclass(frozen=True)
class AccumulatedScene:
    """All that was read of a scene, classes included."""

    scene: Scene
    groups: Mapping[int, SweepGroup]
    """By position of the keyframe in the scene; keyframes with broken files are absent."""
    images: Mapping[int, Mapping[str, ClassImage]]
    """By position: classes of the pixels of each camera; none where the configuration wants none."""
    drift: HeightDrift
    """Height of the vehicle that its poses miss."""
    broken: Mapping[str, str]
    """Token of each keyframe with broken files and what is wrong."""
    source: str
    """What static matter has its classes from: `lidarseg`, `panoptic`, `images` or `map`."""

    def near(self, index: int) -> list[SweepGroup]:
        """Groups of the keyframes whose static points serve the keyframe at a position, in order of time."""
        window = self.scene.config.window_keyframes
        return [group for other, group in sorted(self.groups.items()) if abs(other - index) <= window]


def read_scene(
    dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord], folder: Path, *, drop_broken: bool
) -> AccumulatedScene:
    """Reads every sweep of a scene and gives static matter its classes.

    Args:
        dataset: root, class table, grid.
        config: thresholds.
        records: all keyframes of the scene, in order of time.
        folder: the records folder, which holds the map windows.
        drop_broken: leave out sweeps with broken files, and keyframes whose own files are, instead of raising.

    Raises:
        DataError: a file is missing or broken, or a box or a category is wrong.
    """
    reader = make_reader(dataset, config, records)
    groups: dict[int, SweepGroup] = {}
    images: dict[int, Mapping[str, ClassImage]] = {}
    broken: dict[str, str] = {}
    told = _told_by_images(dataset.classes, has_boxes=any(record.boxes for record in records))
    for index, record in enumerate(records):
        try:
            images[index] = _read_images(dataset, config, record)
            paint = _painter(config, record, images[index], told)
            groups[index] = accumulate_keyframe(reader, record, drop_broken=drop_broken, paint=paint)
        except DataError as error:
            if not drop_broken:
                raise
            broken[record.token] = str(error)
            logger.warning("keyframe dropped: %s", error)
    has_labels = any((group.labels != UNLABELLED).any() for group in groups.values())
    if has_labels:
        mask = _map_mask(reader, records, folder) if config.use_map else None
        classified = spread_labels(list(groups.values()), dataset.classes, config, mask)
    else:
        mask = _map_mask(reader, records, folder)
        classified = _classify_by_map(reader, [records[index] for index in groups], list(groups.values()), mask)
    scene = Scene(dataset, config, reader.anchor_m, _accumulate_objects(list(groups.values()), config), mask)
    source = "map" if not has_labels else "images" if reader.table is None else kind_of_point_labels(records)
    return AccumulatedScene(scene, dict(zip(groups, classified, strict=True)), images, reader.drift, broken, source)


def _read_images(dataset: DatasetSpec, config: LidarConfig, record: SampleRecord) -> Mapping[str, ClassImage]:
    if config.image_labels is None:
        return {}
    return read_class_images(class_folder(dataset, config.image_labels), record, dataset.cameras)


def _told_by_images(table: ClassTable, *, has_boxes: bool) -> UInt8[np.ndarray, " c"]:
    """Classes that images give to points: boxes know things better, where there are any."""
    return table.labels_of(tuple(name for name in table.occupied if name in table.stuff or not has_boxes))


def _painter(
    config: LidarConfig, record: SampleRecord, images: Mapping[str, ClassImage], told: UInt8[np.ndarray, " c"]
) -> Paint | None:
    if config.image_labels is None or not config.image_labels.name_points or not images:
        return None
    return partial(paint_points, record=record, images=images, classes=told)


def _classify_by_map(
    reader: SweepReader, records: Sequence[SampleRecord], groups: Sequence[SweepGroup], mask: MapMask | None
) -> list[SweepGroup]:
    if not groups:
        return []
    poses = [record.global_from_ego for record in records]
    for record, pose in zip(records, poses, strict=True):
        pose[:3, 3] += np.array([0.0, 0.0, reader.drift.at(record.keyframe_sweep.timestamp_us)]) - reader.anchor_m
    points = np.concatenate([group.cells for group in groups])
    ground = fit_ground(points, poses, reader.config.ground_band_m, reader.config.ground_fit)
    return label_by_map(groups, ground, mask, reader.dataset.classes)


def _map_mask(reader: SweepReader, records: Sequence[SampleRecord], folder: Path) -> MapMask | None:
    """The map's driveable area around the drive, where there is a map and the class table has a class for it."""
    window = None if reader.dataset.classes.driveable is None else records[0].map_window
    return None if window is None else read_map_mask(folder, window, reader.anchor_m)


def _accumulate_objects(groups: Sequence[SweepGroup], config: LidarConfig) -> dict[str, np.ndarray]:
    """Points of each instance over the whole scene; within a cell the first one stays."""
    names = sorted({name for group in groups for name in group.objects})
    objects = {}
    for name in names:
        points = np.concatenate([group.objects[name] for group in groups if name in group.objects])
        first, _ = share_cells(points.astype(np.float64), config.cell_m, np.zeros(len(points), dtype=np.int64))
        objects[name] = points[first]
    return objects


def label_scene(
    accumulated: AccumulatedScene, records: Sequence[SampleRecord], wanted: Sequence[int]
) -> Iterator[tuple[int, Labels, dict[str, float]]]:
    """Yields position, labels and counts of each wanted keyframe whose files are whole.

    Args:
        accumulated: from `read_scene`.
        records: all keyframes of the scene, in order of time.
        wanted: positions in ``records``.
    """
    static_source = f"voxels_{accumulated.source}"
    for index in wanted:
        if index not in accumulated.groups:
            continue
        frame = Frame(
            records[index],
            own=accumulated.groups[index],
            groups=accumulated.near(index),
            drift_m=accumulated.drift.at(records[index].keyframe_sweep.timestamp_us),
            images=accumulated.images[index],
        )
        labels, counts = label_frame(accumulated.scene, frame)
        counts[static_source] = counts.pop("voxels_static")
        if accumulated.scene.config.image_labels is not None:
            lacks_some = len(accumulated.images[index]) < len(accumulated.scene.dataset.cameras)
            counts[WITHOUT_PICTURES] = float(lacks_some)
        yield index, labels, counts
