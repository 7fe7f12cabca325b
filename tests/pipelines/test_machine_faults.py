"""A machine that fails is no reason to call samples bad, to leave them out or to record them as gone."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.images import read_image
from pipelines.point_labels import read_categories
from pipelines.points import read_points
from pipelines.prepare.sensor_files import check_files
from pipelines.raw_files import stamp
from pipelines.scheduler import check_open_files
from pipelines.stage import UnitReport, run_stage
from pipelines.units import Unit
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, SetupError, WriteError, disk_errors, read_errors
from schemas.outside import Source, read_bytes
from schemas.records import read_index, read_records
from tests.pipelines.test_stage import SYNC, toy_stage

MESSAGE = r"too many open files; raise the limit \(ulimit -n 4096\) or use fewer --workers"


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open no further file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, before[1]))
        try:
            with suppress(OSError):
                while True:
                    opened.enter_context(Path(os.devnull).open("rb"))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"x")
    return tmp_path / "file"


def test_reading_tells_the_machine_from_the_file(file: Path) -> None:
    with no_descriptors(), pytest.raises(SetupError, match=rf"{file}: {MESSAGE}"):
        read_bytes(Source(str(file)), file, 10)
    with no_descriptors(), pytest.raises(SetupError, match=MESSAGE), read_errors(file):
        file.read_bytes()
    with pytest.raises(DataError, match="not found"):
        read_bytes(Source("gone"), file.with_name("gone"), 10)


def test_file_that_nobody_could_open_is_not_recorded_as_gone(file: Path) -> None:
    """Its marker had `null`, other bytes than those of a calm run."""
    with no_descriptors(), pytest.raises(SetupError, match=MESSAGE):
        stamp(file)
    assert stamp(file.with_name("gone")) is None


def test_readers_of_raw_files_do_not_call_samples_bad(world_dataset: DatasetSpec, prepared: Path) -> None:
    """A `DataError` is what --on-error drop leaves out; LiDAR files were holes even without it."""
    (record,) = read_records(prepared / "records", read_index(prepared / "records")[:1])
    camera, lidar = next(iter(record.cameras.values())), record.keyframe_sweep
    readers: list[Callable[[], object]] = [
        lambda: read_image(world_dataset.root / camera.path, record.token),
        lambda: read_points(world_dataset, lidar, record.token),
        lambda: read_categories(world_dataset.root / str(lidar.labels_path), record.token),
        lambda: check_files(world_dataset.root, record),
    ]
    for read in readers:
        read()
        with no_descriptors(), pytest.raises(SetupError, match=MESSAGE):
            read()


def test_workers_without_descriptors_are_not_started() -> None:
    """Dask printed tracebacks, hung for a minute and the message spoke of memory."""
    with no_descriptors(), pytest.raises(SetupError, match="2 worker processes need 56 open files.*ulimit -n 4096"):
        check_open_files(2)


def fill(tries: Path, folder: Path, unit: Unit) -> UnitReport:
    with tries.open("a") as file:
        file.write("x")
    with disk_errors(folder / "store"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_ends_a_stage_at_once(tmp_path: Path) -> None:
    """Every unit was tried, and the message told to correct the data or to leave samples out."""
    stage = toy_stage(tmp_path / "toy")
    with pytest.raises(WriteError, match="store: the disk is full; free space or choose another folder"):
        run_stage(replace(stage, work=lambda folder, unit: fill(tmp_path / "tries", folder, unit)), SYNC)
    assert (tmp_path / "tries").read_text() == "x"
