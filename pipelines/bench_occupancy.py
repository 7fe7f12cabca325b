"""Cost of labels from sweeps: core-seconds per keyframe by step, peak memory, and a bare traversal as the limit."""

from __future__ import annotations

import cProfile
import multiprocessing
import pstats
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import numpy as np

from pipelines.files import sha256_of, write_bytes
from pipelines.manifests import read_manifest
from pipelines.occupancy import LidarConfig, accumulation, completion, ground, make_occupancy, semantics, sweep
from pipelines.occupancy.carving import count_passes, count_ray_steps, count_segment_steps
from pipelines.occupancy.frame import camera_views, carving_segments, place_anchor
from pipelines.occupancy.kernels import add_votes
from pipelines.occupancy.scene import AccumulatedScene, read_scene
from pipelines.occupancy.stored import open_labels, stored_labels
from pipelines.points import require_lidar
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import write_record
from schemas.datasets import DatasetSpec
from schemas.records import INDEX_FILE, RECORDS_FILE, SampleRecord, index_lines, read_index, read_records
from schemas.voxels.visibility import see_voxels, voxel_rays
from schemas.workfolder import MANIFEST, WorkFolder

_PARTS: Final[Mapping[str, Sequence[Callable[..., Any]]]] = {
    "ego height drift": (sweep.make_reader,),
    "read and thin out sweeps": (accumulation.accumulate_keyframe,),
    "classes of points": (semantics.spread_labels, semantics.label_by_map, ground.fit_ground, ground.read_map_mask),
    "votes": (add_votes,),
    "ground surface": (completion.ground_votes,),
    "LiDAR rays": (count_passes,),
    "camera rays": (see_voxels,),
    "write the store": (write_record,),
}
"""Functions that do not call each other; what none of them does is `the rest`."""

_Walk = tuple[Callable[..., int], tuple[Any, ...]]
"""A bare traversal and its arguments."""


@dataclass(frozen=True)
class OccupancyBench:
    """Figures of one run in a process of its own, kernels compiled before; seconds are of one core."""

    keyframes: int
    sweeps_per_keyframe: float
    seconds_per_keyframe: Mapping[str, float]
    """By step."""
    traversal_seconds_per_keyframe: float
    """A bare walk along the same rays, LiDAR and cameras."""
    million_steps_per_keyframe: float
    """Voxels that these rays pass."""
    peak_memory_gb: float

    @property
    def total(self) -> float:
        """Core-seconds per keyframe."""
        return sum(self.seconds_per_keyframe.values())

    @property
    def ratio(self) -> float:
        """How many times the bare traversal all of it takes."""
        return self.total / self.traversal_seconds_per_keyframe


def bench_occupancy(dataset: DatasetSpec, work: Path, scratch: Path, config: LidarConfig) -> OccupancyBench:
    """Labels one scene in a fresh process and measures it.

    Args:
        dataset: the entry of `datasets.yaml`.
        work: folder with finished `records`; the first scene with labelled keyframes is measured.
        scratch: folder for stores that are thrown away.
        config: thresholds.

    Raises:
        DataError: there are no records, or a file is broken.
        ConfigError: the dataset has no LiDAR.
    """
    require_lidar(dataset, "bench occupancy")
    entries = read_index(WorkFolder(work).records)
    scene_name = next((entry.scene for entry in entries if entry.splits), "")
    members = read_records(WorkFolder(work).records, [entry for entry in entries if entry.scene == scene_name])
    for name, count in (("warm", 1), ("measured", len(members))):
        _write_records(WorkFolder(scratch / name).records, WorkFolder(work).records, members[:count])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measure, dataset, scratch, config).result()


def _write_records(folder: Path, source: Path, records: Sequence[SampleRecord]) -> None:
    folder.mkdir(parents=True)
    lines = [record.model_dump_json().encode() + b"\n" for record in records]
    (folder / RECORDS_FILE).write_bytes(b"".join(lines))
    (folder / INDEX_FILE).write_bytes(b"".join(index_lines(zip(records, lines, strict=True))))
    for path in {record.map_window.path for record in records if record.map_window is not None}:
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(source / path, folder / path)
    manifest = read_manifest(source)
    left = {name: sha256_of([folder / name]) for name in manifest.files if (folder / name).is_file()}
    write_bytes(folder / MANIFEST, manifest.model_copy(update={"files": left}).model_dump_json().encode())


def _measure(dataset: DatasetSpec, scratch: Path, config: LidarConfig) -> OccupancyBench:
    runtime = Runtime(scheduler=Scheduler(kind="sync"))
    make_occupancy(dataset, scratch / "warm", config, runtime)
    _walk_again(dataset, scratch / "warm", config)
    profile = cProfile.Profile(time.process_time)
    started = time.process_time()
    profile.runcall(make_occupancy, dataset, scratch / "measured", config, runtime)
    total = time.process_time() - started
    peak_memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    walk_seconds, walk_steps = _walk_again(dataset, scratch / "measured", config)
    records = _records(scratch / "measured")
    count = sum(bool(record.splits) for record in records)
    return OccupancyBench(
        keyframes=count,
        sweeps_per_keyframe=float(np.mean([len(record.sweeps) for record in records])) + 1,
        seconds_per_keyframe={name: value / count for name, value in _seconds_by_step(profile, total).items()},
        traversal_seconds_per_keyframe=walk_seconds / count,
        million_steps_per_keyframe=walk_steps / count / 1e6,
        peak_memory_gb=peak_memory_gb,
    )


def _records(work: Path) -> list[SampleRecord]:
    return read_records(WorkFolder(work).records, read_index(WorkFolder(work).records))


def _walk_again(dataset: DatasetSpec, work: Path, config: LidarConfig) -> tuple[float, int]:
    """Casts every ray of a finished store again with bare kernels, which count voxels: core-seconds and voxels."""
    records = _records(work)
    accumulated = read_scene(dataset, config, records, WorkFolder(work).records, drop_broken=False)
    seconds, steps, store = 0.0, 0, open_labels(work)
    for index, record in enumerate(records):
        if record.splits:
            occupied = dataset.classes.is_occupied(stored_labels(store, index, record.token)["semantics"])
            for walk in (_lidar_walks(accumulated, record, index), _camera_walks(accumulated, record, occupied)):
                for count, rays in walk:
                    started = time.process_time()
                    steps += count(*rays)
                    seconds += time.process_time() - started
    return seconds, steps


def _lidar_walks(accumulated: AccumulatedScene, record: SampleRecord, index: int) -> Iterator[_Walk]:
    """The LiDAR rays that carve a keyframe."""
    scene = accumulated.scene
    voxel_from_anchor = place_anchor(scene, record, accumulated.drift.at(record.keyframe_sweep.timestamp_us))
    for group in accumulated.near(index):
        shape = scene.dataset.grid.shape
        segments, _ = carving_segments(group, voxel_from_anchor, shape, far_rays=scene.config.far_rays)
        yield count_segment_steps, (segments, shape)


def _camera_walks(accumulated: AccumulatedScene, record: SampleRecord, occupied: np.ndarray) -> Iterator[_Walk]:
    """The camera rays that look at a keyframe's labels."""
    dataset = accumulated.scene.dataset
    for view in camera_views(record, dataset.cameras).values():
        yield count_ray_steps, (occupied, *voxel_rays(dataset.grid, view, accumulated.scene.config.rays_per_voxel))


def _seconds_by_step(profile: cProfile.Profile, total: float) -> dict[str, float]:
    """Time in each step's functions, callees included."""
    cumulative = {place: times[3] for place, times in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    seconds = {
        name: sum(cumulative.get(_place(function), 0.0) for function in functions) for name, functions in _PARTS.items()
    }
    seconds["the rest"] = total - sum(seconds.values())
    return seconds


def _place(function: Callable[..., Any]) -> tuple[str, int, str]:
    """How a profile names a function."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function} is no Python function")
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name
