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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from pipelines import sight
from pipelines.occupancy import LidarConfig, chunks, completion, frame, ground, make_occupancy, semantics
from pipelines.occupancy.kernels import add_votes
from pipelines.occupancy.points import require_lidar
from pipelines.raycast import count_passes, count_steps, mark_visible, reach_through
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import write_record
from schemas.datasets import DatasetSpec
from schemas.records import INDEX_FILE, RECORDS_FILE, SampleRecord, index_lines, read_index, read_records

_PARTS: Final[Mapping[str, Sequence[Callable[..., Any]]]] = {
    "heights of the vehicle": (chunks.make_reader,),
    "read and thin out sweeps": (chunks.ChunkReader.read,),
    "classes of points": (semantics.spread_labels, semantics.label_by_map, ground.fit_ground, ground.read_map_mask),
    "votes": (add_votes,),
    "ground surface": (completion.ground_votes,),
    "LiDAR rays": (count_passes,),
    "camera rays": (sight.see_voxels,),
    "write the store": (write_record,),
}
"""Functions that do not call each other; what none of them does is `the rest`."""


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
    entries = read_index(work / "records")
    scene_name = next((entry.scene for entry in entries if entry.splits), "")
    members = read_records(work / "records", [entry for entry in entries if entry.scene == scene_name])
    for name, count in (("warm", 1), ("measured", len(members))):
        _write_records(scratch / name / "records", work / "records", members[:count])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measure, dataset, scratch, config).result()


def _write_records(folder: Path, source: Path, records: Sequence[SampleRecord]) -> None:
    folder.mkdir(parents=True)
    lines = [record.model_dump_json().encode() + b"\n" for record in records]
    (folder / RECORDS_FILE).write_bytes(b"".join(lines))
    (folder / INDEX_FILE).write_bytes(b"".join(index_lines(zip(records, lines, strict=True))))
    shutil.copy(source / "manifest.json", folder / "manifest.json")
    for path in {record.map_window.path for record in records if record.map_window is not None}:
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(source / path, folder / path)


def _measure(dataset: DatasetSpec, scratch: Path, config: LidarConfig) -> OccupancyBench:
    runtime = Runtime(scheduler=Scheduler(kind="sync"))
    with _walk_again(_Walk()):
        make_occupancy(dataset, scratch / "warm", config, runtime)
    walk, profile = _Walk(), cProfile.Profile(time.process_time)
    started = time.process_time()
    with _walk_again(walk):
        profile.runcall(make_occupancy, dataset, scratch / "measured", config, runtime)
    total = time.process_time() - started
    folder = scratch / "measured" / "records"
    records = read_records(folder, read_index(folder))
    count = sum(bool(record.splits) for record in records)
    seconds = _seconds_by_step(profile, total, walk)
    return OccupancyBench(
        keyframes=count,
        sweeps_per_keyframe=float(np.mean([len(record.sweeps) for record in records])) + 1,
        seconds_per_keyframe={name: value / count for name, value in seconds.items()},
        traversal_seconds_per_keyframe=walk.seconds / count,
        million_steps_per_keyframe=walk.steps / count / 1e6,
        peak_memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    )


@dataclass
class _Walk:
    """Sums of the bare traversals."""

    seconds: float = 0.0
    """In the bare kernel."""
    extra: float = 0.0
    """In the kernel and around it: what the measurement itself adds."""
    extra_cameras: float = 0.0
    """Of that, for the cameras' rays."""
    steps: int = 0

    def go(self, blocked: np.ndarray, origins: np.ndarray, origin_of: np.ndarray, ends: np.ndarray) -> None:
        """Walks along rays."""
        started = time.process_time()
        self.steps += count_steps(blocked, origins, origin_of, ends)
        self.seconds += time.process_time() - started


@contextmanager
def _walk_again(walk: _Walk) -> Iterator[None]:
    """Lets every ray that is cast be walked once more, by the bare kernel."""

    def lidar(counts: np.ndarray, rays: tuple[np.ndarray, np.ndarray, np.ndarray], **options: Any) -> None:
        started = time.process_time()
        walk.go(np.zeros(counts.shape, dtype=bool), *rays)
        walk.extra += time.process_time() - started
        count_passes(counts, rays, **options)

    def camera(visible: np.ndarray, occupied: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> None:
        started = time.process_time()
        ends = origin + reach_through(origin, occupied.shape) * directions
        origin_of = np.zeros(len(ends), dtype=np.int64)
        walk.go(occupied, origin[None], origin_of, ends)
        walk.extra += time.process_time() - started
        walk.extra_cameras += time.process_time() - started
        mark_visible(visible, occupied, origin, directions)

    with patch.object(frame, "count_passes", lidar), patch.object(sight, "mark_visible", camera):
        yield


def _seconds_by_step(profile: cProfile.Profile, total: float, walk: _Walk) -> dict[str, float]:
    """Time in each step's functions, callees included, without the bare traversals."""
    cumulative = {place: times[3] for place, times in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    seconds = {
        name: sum(cumulative.get(_place(function), 0.0) for function in functions) for name, functions in _PARTS.items()
    }
    seconds["camera rays"] -= walk.extra_cameras
    seconds["the rest"] = total - walk.extra - sum(seconds.values())
    return seconds


def _place(function: Callable[..., Any]) -> tuple[str, int, str]:
    """How a profile names a function."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function} is no Python function")
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name
