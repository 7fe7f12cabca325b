"""Labels of a whole scene from its sweeps, boxes and point labels: one pass over the files, then frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.occupancy.chunks import Chunk, ChunkReader, make_reader
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.frame import Scene, label_frame
from pipelines.occupancy.ground import MapMask, fit_ground, read_map_mask
from pipelines.occupancy.heights import Heights
from pipelines.occupancy.kernels import share_cells
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.points import UNLABELLED, kind_of_point_labels
from pipelines.occupancy.refine import ClassImage, read_class_images
from pipelines.occupancy.semantics import label_by_map, spread_labels
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneChunks:
    """All that was read of a scene, classes included."""

    scene: Scene
    chunks: Mapping[int, Chunk]
    """By position of the keyframe in the scene; keyframes with broken files are absent."""
    images: Mapping[int, Mapping[str, ClassImage]]
    """By position: classes of the pixels of each camera; none where the configuration or the splits want none."""
    heights: Heights
    """Of the vehicle, which its poses miss."""
    broken: Mapping[str, str]
    """Token of each keyframe with broken files and what is wrong."""
    has_point_labels: bool


def read_scene(
    dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord], folder: Path, *, drop_broken: bool
) -> SceneChunks:
    """Reads every sweep of a scene and gives static matter its classes.

    Args:
        dataset: root, class table, grid.
        config: thresholds.
        records: all keyframes of the scene, in order of time.
        folder: the records folder, which holds the map windows.
        drop_broken: leave out keyframes with broken files instead of raising.

    Raises:
        DataError: a file is missing or broken, or a box or a category is wrong.
    """
    reader = make_reader(dataset, config, records)
    chunks: dict[int, Chunk] = {}
    images: dict[int, Mapping[str, ClassImage]] = {}
    broken: dict[str, str] = {}
    for index, record in enumerate(records):
        try:
            images[index] = _read_images(dataset, config, record)
            chunks[index] = reader.read(record)
        except DataError as error:
            if not drop_broken:
                raise
            broken[record.token] = str(error)
            logger.warning("keyframe dropped: %s", error)
    has_labels = any((chunk.labels != UNLABELLED).any() for chunk in chunks.values())
    if has_labels:
        mask = _map_mask(reader, records, folder) if config.use_map else None
        classified = spread_labels(list(chunks.values()), config, mask)
    else:
        mask = _map_mask(reader, records, folder)
        classified = _classify_by_map(reader, [records[index] for index in chunks], list(chunks.values()), mask)
    scene = Scene(dataset, config, reader.anchor_m, _gather_objects(list(chunks.values()), config), mask)
    return SceneChunks(scene, dict(zip(chunks, classified, strict=True)), images, reader.heights, broken, has_labels)


def _read_images(dataset: DatasetSpec, config: LidarConfig, record: SampleRecord) -> Mapping[str, ClassImage]:
    if config.image_labels is None or not record.splits:
        return {}
    return read_class_images(dataset.root, config.image_labels, record, dataset.cameras)


def _classify_by_map(
    reader: ChunkReader, records: Sequence[SampleRecord], chunks: Sequence[Chunk], mask: MapMask | None
) -> list[Chunk]:
    if not chunks:
        return []
    poses = [record.global_from_ego for record in records]
    for record, pose in zip(records, poses, strict=True):
        pose[:3, 3] += np.array([0.0, 0.0, reader.heights.at(record.keyframe_sweep.timestamp_us)]) - reader.anchor_m
    points = np.concatenate([chunk.cells for chunk in chunks])
    ground = fit_ground(points, poses, reader.config.ground_band_m)
    return label_by_map(chunks, ground, mask)


def _map_mask(reader: ChunkReader, records: Sequence[SampleRecord], folder: Path) -> MapMask | None:
    window = records[0].map_window
    return None if window is None else read_map_mask(folder, window, reader.anchor_m)


def _gather_objects(chunks: Sequence[Chunk], config: LidarConfig) -> dict[str, np.ndarray]:
    """Points of each instance over the whole scene; within a cell the first one stays."""
    names = sorted({name for chunk in chunks for name in chunk.objects})
    gathered = {}
    for name in names:
        points = np.concatenate([chunk.objects[name] for chunk in chunks if name in chunk.objects])
        first, _ = share_cells(points.astype(np.float64), config.cell_m, np.zeros(len(points), dtype=np.int64))
        gathered[name] = points[first]
    return gathered


def label_scene(
    parts: SceneChunks, records: Sequence[SampleRecord], wanted: Sequence[int]
) -> Iterator[tuple[int, Labels, dict[str, float]]]:
    """Yields position, labels and counts of each wanted keyframe whose files are whole.

    Args:
        parts: from `read_scene`.
        records: all keyframes of the scene, in order of time.
        wanted: positions in ``records``.
    """
    static_source = f"voxels_{kind_of_point_labels(records)}" if parts.has_point_labels else "voxels_map"
    window = parts.scene.config.window_keyframes
    for index in wanted:
        if index not in parts.chunks:
            continue
        near = [chunk for other, chunk in sorted(parts.chunks.items()) if abs(other - index) <= window]
        rise_m = parts.heights.at(records[index].keyframe_sweep.timestamp_us)
        labels, counts = label_frame(parts.scene, records[index], near, rise_m, parts.images[index])
        counts[static_source] = counts.pop("voxels_static")
        yield index, labels, counts
