"""Tasks on local workers: how many are in flight, how much memory a worker may use, what its death says."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from pipelines.files import write_bytes
from pipelines.scheduler import MEMORY_SHARE, RETRIES, Scheduler, run_tasks, worker_number
from pipelines.stage import Runtime, Stage, Unit, UnitReport, read_manifest, run_stage
from schemas.errors import ConfigError, DataError, StageError
from tests.small_memory import run_with

TWO = Scheduler(workers=2)
UNITS = [Unit(f"part-{number}", 1) for number in range(6)]


def double(unit: Unit) -> str:
    return 2 * unit.name


@pytest.mark.slow
def test_worker_processes_leave_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask sets OMP_NUM_THREADS=1 for its workers; left in this process it halved the speed of training."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    results = dict(run_tasks(double, UNITS, Scheduler(workers=2)))
    assert results == {unit: 2 * unit.name for unit in UNITS}
    assert "OMP_NUM_THREADS" not in os.environ


def kept_bytes_here(unit: Unit) -> str:
    return os.environ["MALLOC_TRIM_THRESHOLD_"] + " " + os.environ["OMP_NUM_THREADS"]


@pytest.mark.slow
def test_local_workers_keep_freed_arrays() -> None:
    """By Dask's own 64 KiB, each image of the masks stage was mapped anew."""
    results = run_tasks(kept_bytes_here, UNITS, Scheduler(workers=2))
    assert {text for _, text in results} == {f"{1 << 28} 1"}


def number_here(unit: Unit) -> int:
    """Slow enough for every worker to get a task."""
    time.sleep(0.5)
    return worker_number()


@pytest.mark.slow
def test_local_workers_are_numbered() -> None:
    assert {number for _, number in run_tasks(number_here, UNITS, Scheduler(workers=2))} == {0, 1}
    assert worker_number() == 0


class Counted(list[Unit]):
    """Counts the units that were taken."""

    taken = 0

    def __iter__(self) -> Iterator[Unit]:
        for unit in super().__iter__():
            self.taken += 1
            yield unit


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_tasks_in_flight_than_workers(workers: int) -> None:
    tasks = Counted(Unit(f"part-{number}", 1) for number in range(40))
    finished = 0
    for _ in run_tasks(double, tasks, Scheduler(kind="threads", workers=workers)):
        finished += 1
        assert tasks.taken <= finished + workers
    assert finished == tasks.taken == 40


def grow(size: int, greedy: str, folder: Path, unit: Unit) -> UnitReport:
    """Takes so many bytes if it is the greedy unit, and goes on until it is stopped."""
    parts = []
    while unit.name == greedy and sum(part.nbytes for part in parts) < size:
        parts.append(np.ones(4 << 20))
        time.sleep(0.02)
    time.sleep(1.0 if parts else 0.0)
    write_bytes(folder / f"{unit.name}.txt", b"done")
    return UnitReport(done=1)


def growing_stage(folder: Path, greedy: str) -> Stage:
    work = partial(grow, 800 << 20, greedy)
    return Stage("toy", folder, {}, {}, UNITS, work, create=lambda path: path.mkdir())


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_death_of_memory_names_stage_unit_limit_and_flag(workers: int, tmp_path: Path) -> None:
    runtime = Runtime(scheduler=Scheduler(workers=workers, memory_limit="500MiB"))
    with pytest.raises(StageError) as caught:
        run_stage(growing_stage(tmp_path / "toy", "part-3"), runtime)
    message = str(caught.value)
    assert message.startswith("toy, unit part-3: its worker process died")
    for words in ("500 MiB", "--memory-limit 1GiB", "--workers", "Finished units are kept"):
        assert words in message
    finished = {path.stem for path in (tmp_path / "toy/units").iterdir()}
    assert {"part-0", "part-1"} <= finished and "part-3" not in finished
    written = {name: (tmp_path / f"toy/{name}.txt").stat().st_mtime_ns for name in finished}
    run_stage(growing_stage(tmp_path / "toy", "none"), replace(runtime, scheduler=Scheduler(kind="sync")))
    assert read_manifest(tmp_path / "toy").done == len(UNITS)
    assert {name: (tmp_path / f"toy/{name}.txt").stat().st_mtime_ns for name in finished} == written


@pytest.mark.slow
def test_a_single_unit_gets_a_process_where_memory_is_limited(tmp_path: Path) -> None:
    stage = replace(growing_stage(tmp_path / "toy", "part-0"), units=UNITS[:1])
    with pytest.raises(StageError, match=r"toy, unit part-0: .* The only worker may use 500 MiB"):
        run_stage(stage, Runtime(scheduler=Scheduler(memory_limit="500MiB")))


def cut_while_mapped(folder: Path, unit: Unit) -> None:
    """A bus error, as a file gives that shrinks while it is mapped into memory."""
    with (folder / unit.name).open("wb+") as file:
        file.truncate(8192)
        with mmap.mmap(file.fileno(), 8192) as view:
            file.truncate(0)
            view[5000]


def test_bus_error_of_a_worker_is_a_death_like_others(tmp_path: Path) -> None:
    outcomes = dict(run_tasks(partial(cut_while_mapped, tmp_path), UNITS[:2], Scheduler(workers=2)))
    for unit, outcome in outcomes.items():
        assert isinstance(outcome, StageError)
        assert str(outcome).startswith(f"unit {unit.name}: its worker process died")


def fail_and_count(folder: Path, how: str, unit: Unit) -> str:
    """Notes that it ran; the second unit then raises or dies, the third one dies in its first try alone."""
    with (folder / unit.name).open("a") as tries:
        tries.write("x")
    is_first = (folder / unit.name).stat().st_size == 1
    if unit.name == "part-1" and how == "raise":
        raise DataError("sample b: its image is cut off")
    if (unit.name == "part-1" and how == "die") or (unit.name == "part-2" and is_first):
        os.kill(os.getpid(), signal.SIGKILL)
    return unit.name


@pytest.mark.slow
@pytest.mark.parametrize(("how", "tries"), [("raise", 1), ("die", 1 + RETRIES)])
def test_crashes_are_tried_again_and_bad_data_is_not(how: str, tries: int, tmp_path: Path) -> None:
    outcomes = {unit.name: outcome for unit, outcome in run_tasks(partial(fail_and_count, tmp_path, how), UNITS, TWO)}
    bad = outcomes.pop("part-1")
    assert isinstance(bad, DataError if how == "raise" else StageError)
    assert "sample b" in str(bad) if how == "raise" else "unit part-1: its worker process died 2 times" in str(bad)
    assert outcomes == {unit.name: unit.name for unit in UNITS if unit.name != "part-1"}
    assert (tmp_path / "part-1").stat().st_size == tries


SMALL = """
from cli.failures import failure_of
from pipelines.scheduler import Scheduler, run_tasks
from pipelines.units import Unit
try:
    list(run_tasks(repr, [Unit("a", 1), Unit("b", 1)], Scheduler(workers=2)))
except Exception as error:
    failure_of(error).print()
"""


def test_no_shared_memory_is_one_message(tmp_path: Path) -> None:
    """Workers waited for each other for a minute, then said that memory ran out."""
    said = run_with("4k", tmp_path, SMALL).stderr
    assert said.startswith("error: worker processes need shared memory, and there is none (No space left on device")
    assert said.endswith("or run in this process alone: --scheduler sync.\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "workers", "expected"),
    [
        (None, 1, MEMORY_SHARE * MEMORY_LIMIT),
        (None, 4, MEMORY_SHARE * MEMORY_LIMIT / 4),
        ("0.5", 4, 0.5 * MEMORY_LIMIT),
        ("1GiB", 4, 1 << 30),
        ("700 MB", 1, parse_bytes("700 MB")),
        ("900000000", 1, 900_000_000),
        ("1000TiB", 1, MEMORY_LIMIT),
    ],
)
def test_memory_of_a_worker(text: str | None, workers: int, expected: float) -> None:
    assert Scheduler(memory_limit=text).worker_memory(workers) == int(expected)


@pytest.mark.parametrize("text", ["much", "nan", "inf", "-1", "0", "100MiB", "", "4 GiB GiB"])
def test_senseless_memory_limits_are_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--memory-limit .*: expected at least 256 MiB for each worker, such as 4GiB"
    ):
        Scheduler(memory_limit=text)


@pytest.mark.parametrize("kind", ["sync", "threads", "tcp://127.0.0.1:1"])
def test_memory_limit_that_nothing_would_keep_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="--memory-limit 4GiB belongs to --scheduler processes"):
        Scheduler(kind=kind, memory_limit="4GiB")


def test_workers_that_die_while_they_start_are_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.Client", refuse)
    with pytest.raises(StageError, match=r"Nanny failed to start.*memory ran out.*--workers"):
        list(run_tasks(repr, [Unit("a", 1), Unit("b", 1)], Scheduler(workers=2)))
