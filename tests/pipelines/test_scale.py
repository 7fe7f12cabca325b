"""Memory stays flat and time linear in the number of samples, and a task opens no records but its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.bench_log import BOXES, SCENE_LENGTH, SWEEPS, GeneratedLog
from pipelines.bench_stages import STAGES, bench_stages
from pipelines.masks import SeedsConfig, masks_stage
from pipelines.occupancy import Occ3dConfig, occupancy_stage
from pipelines.pack import PackConfig, pack_stage
from pipelines.prepare.geometry import geometry_stage
from pipelines.prepare.scene_records import records_stage
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime, Stage, Unit, run_stage
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import RECORDS_FILE, read_index, read_records
from schemas.workfolder import WorkFolder

BUILDERS: dict[str, Callable[[DatasetSpec, WorkFolder], Stage]] = {
    "geometry": lambda dataset, work: geometry_stage(dataset, work.root),
    "occupancy": lambda dataset, work: occupancy_stage(dataset, work.root, Occ3dConfig(), "fail"),
    "masks": lambda dataset, work: masks_stage(dataset, work, SeedsConfig(), "fail"),
    "pack": lambda dataset, work: pack_stage(dataset, work, PackConfig()),
}


@pytest.fixture
def work(stored: Path, tmp_path: Path) -> WorkFolder:
    """A copy of the stored stages in which only the records of the first scene can be read."""
    copy = WorkFolder(tmp_path / "work")
    shutil.copytree(stored, copy.root, ignore=shutil.ignore_patterns("shards*"))
    path = copy.records / RECORDS_FILE
    data = path.read_bytes()
    start = read_index(copy.records)[2].start
    path.write_bytes(data[:start] + b"#" * (len(data) - start))
    return copy


@pytest.mark.parametrize("name", BUILDERS)
def test_plan_reads_no_records_and_a_task_only_its_own(name: str, work: WorkFolder, world_dataset: DatasetSpec) -> None:
    stage = BUILDERS[name](world_dataset, work)
    entries = read_index(work.records)
    shutil.rmtree(stage.folder, ignore_errors=True)
    stage.create(stage.folder)
    own = stage.units[0] if name == "pack" else Unit("own", 2, tuple(entries[:2]))
    assert [entry.scene for entry in own.entries] == ["synth-0000", "synth-0000"]
    assert stage.work(stage.folder, own).done == 2
    with pytest.raises(DataError, match=r"samples.jsonl, line 3 \(bytes \d+ to \d+\): .* Invalid JSON"):
        stage.work(stage.folder, stage.units[1] if name == "pack" else Unit("other", 2, tuple(entries[2:])))


def test_generated_log_is_as_large_to_read_as_nuscenes(world_dataset: DatasetSpec, tmp_path: Path) -> None:
    log = GeneratedLog(7 * SCENE_LENGTH)
    stage = records_stage(world_dataset, tmp_path / "records", log, on_error="fail", overwrite=False)
    run_stage(stage, Runtime(scheduler=Scheduler(kind="sync")))
    entries = read_index(tmp_path / "records")
    assert len(entries) == log.samples
    assert [entry.scene for entry in entries[SCENE_LENGTH - 1 : SCENE_LENGTH + 1]] == ["scene-00000", "scene-00001"]
    assert {entry.splits for entry in entries} == {("train",), ("val",)}
    first, last = read_records(tmp_path / "records", [entries[0], entries[-1]])
    assert (len(last.boxes), len(last.sweeps), len(last.cameras)) == (BOXES, SWEEPS, 6)
    assert (first.frame, last.frame, last.token) == (0, SCENE_LENGTH - 1, entries[-1].token)


@pytest.mark.slow
def test_memory_is_flat_and_time_linear(tmp_path: Path) -> None:
    """Each stage in a process of its own. Processor time is compared, because other programs share the machine."""
    half, full = (bench_stages(tmp_path, count, Scheduler(workers=1)) for count in (2_500, 5_000))
    assert [cost.stage for cost in full] == list(STAGES)
    for small, large in zip(half, full, strict=True):
        assert large.samples == 2 * small.samples
        assert max(large.driver_mb, large.worker_mb) < 600
        assert large.driver_mb < small.driver_mb + 60
        assert large.worker_mb < small.worker_mb + 60
        assert large.rerun_s < 10
        assert large.cpu_s < 2.2 * small.cpu_s + 1
        assert large.cpu_s / large.samples < 0.01
