"""Bench of the stages without their work: what plans, tasks, markers and manifests of a large dataset cost.

Every stage is the real one, with the work of a unit replaced: it reads the unit's records and is done. Each runs in a
process of its own, so that the peak of memory is its own.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from pipelines.bench_log import GeneratedLog
from pipelines.masks import SeedsConfig, masks_stage
from pipelines.occupancy import Occ3dConfig, occupancy_stage
from pipelines.pack import PackConfig, pack_stage
from pipelines.prepare.geometry import geometry_stage
from pipelines.prepare.scene_records import records_stage
from pipelines.scheduler import Scheduler
from pipelines.shard_file import split_of, write_shard
from pipelines.stage import Runtime, Stage, Unit, UnitReport, run_stage
from pipelines.unit_files import Work
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.images import ImageSpec
from schemas.records import read_records
from schemas.shards import sample_members
from schemas.workfolder import WorkFolder


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage costs beside its work."""

    stage: str
    samples: int
    tasks: int
    plan_s: float
    """Driver before the first task: index, units, empty arrays."""
    start_s: float
    """From there to the first marker: worker processes start and import."""
    tasks_s: float
    """From there to the last marker: records are read, reports travel, markers are written."""
    seconds: float
    """All of it, the manifest included."""
    cpu_s: float
    """Processor time of driver and workers for it, their imports included: what other programs hardly change."""
    rerun_s: float
    """The finished stage once more."""
    driver_mb: float
    """Peak memory of the driver, MB."""
    worker_mb: float
    """Peak memory of the largest worker, MB."""

    @property
    def task_ms(self) -> float:
        """Overhead of one more task, milliseconds of wall time."""
        return 1000 * self.tasks_s / max(1, self.tasks - 1)


def bench_stages(
    scratch: Path, samples: int, scheduler: Scheduler, on_stage: Callable[[str], None] = lambda stage: None
) -> list[StageCost]:
    """Runs every stage over a generated log.

    Args:
        scratch: folder for its files, about 20 kB per sample; emptied first.
        samples: number of keyframes.
        scheduler: where the tasks run.
        on_stage: called with the name of each stage that starts.

    Returns:
        One row per stage, in the order of the pipeline.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    costs = []
    for stage in STAGES:
        on_stage(stage)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            costs.append(process.submit(_measure, stage, scratch, samples, scheduler).result())
    return costs


def _measure(name: str, scratch: Path, samples: int, scheduler: Scheduler) -> StageCost:
    ticks: list[float] = []
    uses = scratch / "uses" / name
    build = partial(STAGES[name], Bench(GeneratedLog(samples), WorkFolder(scratch / "work"), uses))
    runtime = Runtime(scheduler=scheduler, on_progress=lambda done, total: ticks.append(time.monotonic()))
    started = time.monotonic()
    stage = build()
    run_stage(stage, runtime)
    ended, cpu_s = time.monotonic(), time.process_time()
    if not run_stage(build(), runtime).skipped:
        raise RuntimeError(f"stage {name} was not finished after its first run")
    workers = [tuple(map(float, path.read_text().split())) for path in uses.iterdir()]
    return StageCost(
        stage=name,
        samples=samples,
        tasks=len(stage.units),
        plan_s=ticks[0] - started,
        start_s=ticks[1] - ticks[0],
        tasks_s=ticks[-1] - ticks[1],
        seconds=ended - started,
        cpu_s=cpu_s + sum(cpu for _, cpu in workers),
        rerun_s=time.monotonic() - ended,
        driver_mb=peak_memory_mb(),
        worker_mb=max(peak for peak, _ in workers),
    )


def peak_memory_mb() -> float:
    """Peak memory of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, it does not count what the parent held when this process started
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dataclass(frozen=True)
class Bench:
    """What the tasks need."""

    log: GeneratedLog
    work: WorkFolder
    uses: Path
    """Folder of one file per process with its peak memory in MB and its processor time in seconds."""

    @property
    def dataset(self) -> DatasetSpec:
        """An entry with images and grid of nuScenes."""
        return DatasetSpec(
            name="bench",
            format="nuscenes",
            root=self.work.root,
            version="generated",
            work=self.work.root,
            image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
            splits={name: SplitSpec(official=name) for name in ("train", "val")},
        )

    def note_use(self) -> None:
        """Stores what this process has used so far."""
        self.uses.mkdir(parents=True, exist_ok=True)
        (self.uses / str(os.getpid())).write_text(f"{peak_memory_mb()} {time.process_time()}")


def _read_only(bench: Bench, folder: Path, unit: Unit) -> UnitReport:
    """The empty kernel."""
    read_records(bench.work.records, unit.entries)
    bench.note_use()
    return UnitReport(done=unit.size)


def _pack_nothing(bench: Bench, folder: Path, unit: Unit) -> UnitReport:
    """The empty kernel of `pack`: a shard whose members hold one byte each, as the manifest needs its index."""
    members = dict.fromkeys(sample_members(bench.dataset.cameras, masks=True), b"0")
    samples = ((record, members) for record in read_records(bench.work.records, unit.entries))
    write_shard(folder, unit.name, split_of(unit), samples)
    bench.note_use()
    return UnitReport(done=unit.size)


def _check_scene(bench: Bench, check: Work, folder: Path, unit: Unit) -> UnitReport:
    """The kernel of `records`: drafts are read, linked and written as ever, but there are no files to check."""
    report = check(folder, unit)
    bench.note_use()
    return report


def _records(bench: Bench) -> Stage:
    stage = records_stage(bench.dataset, bench.work.records, bench.log, on_error="fail", overwrite=False)
    return replace(stage, work=partial(_check_scene, bench, stage.work))


def _geometry(bench: Bench) -> Stage:
    return replace(geometry_stage(bench.dataset, bench.work.root), work=partial(_read_only, bench))


def _occupancy(bench: Bench) -> Stage:
    stage = occupancy_stage(bench.dataset, bench.work.root, Occ3dConfig(), "fail")
    return replace(stage, work=partial(_read_only, bench))


def _masks(bench: Bench) -> Stage:
    return replace(masks_stage(bench.dataset, bench.work, SeedsConfig(), "fail"), work=partial(_read_only, bench))


def _pack(bench: Bench) -> Stage:
    return replace(pack_stage(bench.dataset, bench.work, PackConfig()), work=partial(_pack_nothing, bench))


STAGES: Final[Mapping[str, Callable[[Bench], Stage]]] = {
    "records": _records,
    "geometry": _geometry,
    "occupancy": _occupancy,
    "masks": _masks,
    "pack": _pack,
}
"""The stages in the order of the pipeline, with empty kernels."""
