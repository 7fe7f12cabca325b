"""Labels of a whole scene from its sweeps, boxes and point labels: one pass over the files, then frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.occupancy.chunks import Chunk, ChunkReader, make_reader
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.frame import Scene, label_frame
from pipelines.occupancy.ground import fit_ground, read_map_mask
from pipelines.occupancy.heights import lift, vehicle_heights
from pipelines.occupancy.kernels import share_cells
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.points import UNLABELLED, kind_of_point_labels
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
    rises_m: Mapping[int, float]
    """Height of the vehicle that its pose misses, by the same position."""
    broken: Mapping[str, str]
    """Token of each keyframe with broken files and what is wrong."""
    has_point_labels: bool


def read_scene(
    dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord], *, drop_broken: bool
) -> SceneChunks:
    """Reads every sweep of a scene and gives static matter its classes.

    Args:
        dataset: root, class table, grid.
        config: thresholds.
        records: all keyframes of the scene, in order of time.
        drop_broken: leave out keyframes with broken files instead of raising.

    Raises:
        DataError: a file is missing or broken, or a box or a category is wrong.
    """
    reader = make_reader(dataset, config, records)
    chunks: dict[int, Chunk] = {}
    broken: dict[str, str] = {}
    for index, record in enumerate(records):
        try:
            chunks[index] = reader.read(record)
        except DataError as error:
            if not drop_broken:
                raise
            broken[record.token] = str(error)
            logger.warning("keyframe dropped: %s", error)
    rises = dict(zip(chunks, vehicle_heights(list(chunks.values())).tolist(), strict=True)) if chunks else {}
    lifted = {index: lift(chunk, rises[index]) for index, chunk in chunks.items()}
    has_labels = any((chunk.labels != UNLABELLED).any() for chunk in chunks.values())
    if has_labels:
        classified = spread_labels(list(lifted.values()), config)
    else:
        classified = _classify_by_map(reader, {index: records[index] for index in lifted}, rises, list(lifted.values()))
    scene = Scene(dataset, config, reader.anchor_m, _gather_objects(list(chunks.values()), config))
    return SceneChunks(scene, dict(zip(chunks, classified, strict=True)), rises, broken, has_labels)


def _classify_by_map(
    reader: ChunkReader, records: Mapping[int, SampleRecord], rises_m: Mapping[int, float], chunks: Sequence[Chunk]
) -> list[Chunk]:
    if not chunks:
        return []
    poses = [record.global_from_ego for record in records.values()]
    places = np.array([pose[:3, 3] for pose in poses])
    for pose, rise_m in zip(poses, rises_m.values(), strict=True):
        pose[:3, 3] += np.array([0.0, 0.0, rise_m]) - reader.anchor_m
    points = np.concatenate([chunk.cells for chunk in chunks])
    ground = fit_ground(points, poses, reader.config.ground_band_m)
    mask_path = next(iter(records.values())).map_mask
    mask = None if mask_path is None else read_map_mask(reader.dataset.root / mask_path, places, reader.anchor_m)
    return label_by_map(chunks, ground, mask)


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
        labels, counts = label_frame(parts.scene, records[index], near, parts.rises_m[index])
        counts[static_source] = counts.pop("voxels_static")
        yield index, labels, counts
