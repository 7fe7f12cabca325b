"""Bench of the stage `masks` with SEEDS: its images per second against bare OpenCV on as many processes."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2

from pipelines.bench_log import GeneratedLog
from pipelines.masks import SeedsConfig, make_masks
from pipelines.masks.seeds import HISTOGRAM_BINS, PRIOR, REQUESTS, SEEDS_SIZE
from pipelines.prepare.scene_records import records_stage
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime, run_stage
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.images import ImageSpec
from schemas.records import read_index, read_records
from schemas.workfolder import WorkFolder


@dataclass(frozen=True, kw_only=True)
class MasksBench:
    """Images per second of both, decoding included, on as many processes."""

    images: int
    workers: int
    stage_per_s: float
    """From the first finished unit to the last: all that the stage does, without the start of its processes."""
    bare_per_s: float
    """Decode, resize, convert and segment alone, all processes at the same time."""
    stage_per_core_s: float
    """By processor time of all processes, their start included: what other programs hardly change."""
    bare_per_core_s: float
    seconds: float
    """The stage with the start of its processes and its manifest."""

    @property
    def ratio(self) -> float:
        """The stage's throughput by the bare one; means something where nothing else runs."""
        return self.stage_per_s / self.bare_per_s

    @property
    def core_ratio(self) -> float:
        """The same by processor time."""
        return self.stage_per_core_s / self.bare_per_core_s


def bench_masks(scratch: Path, photos: Sequence[Path], samples: int, workers: int, config: SeedsConfig) -> MasksBench:
    """Runs the stage over a generated log whose keyframes all show the same photos, then the bare library.

    Args:
        scratch: folder for its files; emptied first.
        photos: one file of each camera of nuScenes, 1600 x 900.
        samples: keyframes; a unit has 32.
        workers: processes.
        config: of SEEDS.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    dataset = _log(scratch, photos, samples)
    ticks: list[tuple[float, int]] = []
    runtime = Runtime(
        scheduler=Scheduler(workers=workers), on_progress=lambda done, total: ticks.append((time.monotonic(), done))
    )
    before = _core_s()
    summary = make_masks(dataset, dataset.work, config, runtime)
    between = _core_s()
    (first_s, first), (last_s, last) = ticks[workers], ticks[-1]
    rounds = max(1, samples // (2 * workers))
    bare_per_s = _bare_per_s(photos, rounds, workers, config)
    return MasksBench(
        images=samples * len(photos),
        workers=workers,
        stage_per_s=(last - first) * len(photos) / (last_s - first_s),
        bare_per_s=bare_per_s,
        stage_per_core_s=samples * len(photos) / (between - before),
        bare_per_core_s=workers * (rounds + 1) * len(photos) / (_core_s() - between),
        seconds=summary.seconds,
    )


def _core_s() -> float:
    """Processor seconds of this process and of those it has waited for."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _log(scratch: Path, photos: Sequence[Path], samples: int) -> DatasetSpec:
    """A dataset with records and without anything else but the photos."""
    dataset = DatasetSpec(
        name="bench",
        format="nuscenes",
        root=scratch / "raw",
        version="generated",
        work=scratch / "work",
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={name: SplitSpec(official=name) for name in ("train", "val")},
    )
    folder = WorkFolder(dataset.work).records
    stage = records_stage(dataset, folder, GeneratedLog(samples), on_error="fail", overwrite=False)
    run_stage(stage, Runtime(scheduler=Scheduler(kind="sync")))
    (record,) = read_records(folder, read_index(folder)[:1])
    for channel, photo in zip(dataset.cameras, photos, strict=True):
        path = dataset.root / record.cameras[channel].path
        path.parent.mkdir(parents=True)
        shutil.copyfile(photo, path)
    return dataset


def _bare_per_s(photos: Sequence[Path], rounds: int, workers: int, config: SeedsConfig) -> float:
    """Images per second of all processes together; each has warmed up before the clock starts."""
    work = partial(_segment_bare, tuple(map(str, photos)), config)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        list(processes.map(work, [1] * workers))
        started = time.monotonic()
        list(processes.map(work, [rounds] * workers))
        return workers * rounds * len(photos) / (time.monotonic() - started)


def _segment_bare(photos: Sequence[str], config: SeedsConfig, rounds: int) -> None:
    cv2.setNumThreads(1)
    requested, levels = REQUESTS[config.segments]
    seeds = cv2.ximgproc.createSuperpixelSEEDS(*SEEDS_SIZE, 3, requested, levels, PRIOR, HISTOGRAM_BINS)
    for _ in range(rounds):
        for photo in photos:
            resized = cv2.resize(cv2.imread(photo), SEEDS_SIZE, interpolation=cv2.INTER_AREA)
            seeds.iterate(cv2.cvtColor(resized, cv2.COLOR_BGR2LAB), config.iterations)
            seeds.getLabels()
