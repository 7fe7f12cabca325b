"""Accumulation: a keyframe and the sweeps before it become thinned static points, rays, and points of objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from pipelines.occupancy.ballot import num_slots, slots_of, winners
from pipelines.occupancy.kernels import cell_means, share_cells
from pipelines.occupancy.sweep import Paint, Sweep, SweepReader
from pipelines.points import NOT_MATTER, UNKNOWN, UNLABELLED
from schemas.classes import ClassTable
from schemas.errors import DataError
from schemas.records import SampleRecord

logger = logging.getLogger(__name__)


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
class SweepGroup:
    """What a keyframe and the sweeps before it saw, accumulated; positions as in `Rays`."""

    cells: Float32[np.ndarray, "c 3"]
    """Static matter: mean of the points of each cell of `LidarConfig.cell_m`."""
    weights: Int32[np.ndarray, " c"]
    """Number of points of each cell."""
    labels: UInt8[np.ndarray, " c"]
    """Majority of the cell's own point labels, `UNLABELLED` without any."""
    rays: Rays
    objects: dict[str, Float32[np.ndarray, "_ 3"]]
    """Points of each instance, metres, box frame."""
    lidar: Float64[np.ndarray, " 3"]
    """Position of the sensor at the keyframe."""
    returns: Float32[np.ndarray, "n 3"]
    """Points of the keyframe's own sweep, objects included."""
    moving: Float32[np.ndarray, "m 3"] = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    """Those of the returns that belong to moving things without boxes: no other keyframe has them where they are."""
    moving_labels: UInt8[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, np.uint8))
    num_missing: int = 0
    """Sweeps that were left out because their files are missing or broken."""


def accumulate_keyframe(
    reader: SweepReader, record: SampleRecord, *, drop_broken: bool = False, paint: Paint | None = None
) -> SweepGroup:
    """The keyframe and its sweeps.

    Args:
        reader: of the scene.
        record: the keyframe.
        drop_broken: do without sweeps whose files are missing or broken.
        paint: classes of the keyframe's own points, see `SweepReader.read`.

    Raises:
        DataError: a file of the keyframe or, without ``drop_broken``, of one of its sweeps is missing or broken.
    """
    sweeps = [*_read_sweeps(reader, record, drop_broken), reader.read(record.keyframe_sweep, record.token, paint)]
    points = np.concatenate([sweep.points for sweep in sweeps])
    labels = np.concatenate([sweep.labels for sweep in sweeps])
    is_static = np.concatenate([sweep.is_static for sweep in sweeps])
    sweep_of = np.repeat(np.arange(len(sweeps)), [len(sweep.points) for sweep in sweeps])
    static = points[is_static]
    first, cell_of_static = share_cells(static, reader.config.cell_m, np.zeros(len(static), dtype=np.int64))
    cells, weights = cell_means(static, cell_of_static, len(first))
    cell_of = np.full(len(points), -1, dtype=np.int64)
    cell_of[is_static] = cell_of_static
    origins = np.array([sweep.origin for sweep in sweeps])
    names = dict.fromkeys(name for sweep in sweeps for name in sweep.objects)
    return SweepGroup(
        cells=cells.astype(np.float32),
        weights=weights,
        labels=majority_labels(cell_of_static, labels[is_static], len(cells), reader.dataset.classes),
        rays=_merge_rays(points, origins, sweep_of, cell_of, reader.config.ray_cell_m),
        objects={
            name: np.concatenate([sweep.objects[name] for sweep in sweeps if name in sweep.objects]) for name in names
        },
        lidar=sweeps[-1].origin,
        returns=sweeps[-1].points.astype(np.float32),
        moving=sweeps[-1].points[sweeps[-1].is_moving].astype(np.float32),
        moving_labels=sweeps[-1].labels[sweeps[-1].is_moving],
        num_missing=len(record.sweeps) + 1 - len(sweeps),
    )


def _read_sweeps(reader: SweepReader, record: SampleRecord, drop_broken: bool) -> Iterator[Sweep]:
    for lidar in record.sweeps:
        try:
            sweep = reader.read(lidar, record.token)
        except DataError as error:
            if not drop_broken:
                raise
            logger.warning("sweep left out: %s", error)
            continue
        yield sweep


def _merge_rays(
    points: Float64[np.ndarray, "n 3"],
    origins: Float64[np.ndarray, "s 3"],
    sweep_of: Int64[np.ndarray, " n"],
    cell_of: Int64[np.ndarray, " n"],
    ray_cell_m: float,
) -> Rays:
    """Merges rays whose sensor positions and hits share cells."""
    first_sweep, place_of_sweep = share_cells(origins, ray_cell_m, np.zeros(len(origins), dtype=np.int64))
    place_of = place_of_sweep[sweep_of]
    first, ray_of = share_cells(points, ray_cell_m, place_of)
    ends, weights = cell_means(points, ray_of, len(first))
    return Rays(origins[first_sweep], place_of[first], ends.astype(np.float32), weights, cell_of[first])


def majority_labels(
    cell_of: Int64[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"], count: int, table: ClassTable
) -> UInt8[np.ndarray, " c"]:
    """Most frequent class of the points of each cell, see `ballot.winners`; `UNLABELLED` where no point has a label."""
    slots = num_slots(table)
    known = (labels < NOT_MATTER) | (labels == UNKNOWN)
    votes = np.bincount(cell_of[known] * slots + slots_of(labels[known], table), minlength=count * slots).reshape(
        count, slots
    )
    return np.where(votes.any(axis=1), winners(votes, table), np.uint8(UNLABELLED))
