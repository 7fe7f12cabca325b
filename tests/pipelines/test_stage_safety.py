"""Nothing is lost and nothing lies: overwrite beside the old store, foreign files, lost bytes, two drivers, kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.stage import Runtime, Unit, UnitReport, read_manifest, run_stage
from schemas.errors import ConfigError, DataError, StageError
from schemas.lock import Holder, lock_path
from tests.pipelines.test_stage import SYNC, files_below, toy_stage

ROOT = Path(__file__).parents[2]
OVERWRITE = replace(SYNC, overwrite=True)
DROP = replace(SYNC, on_error="drop")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A finished toy stage."""
    run_stage(toy_stage(tmp_path / "store"), SYNC)
    return tmp_path / "store"


def beside(store: Path) -> list[str]:
    return sorted(path.name for path in store.parent.iterdir())


def test_overwrite_takes_the_place_of_the_old_store(store: Path) -> None:
    run_stage(toy_stage(store, factor=2), OVERWRITE)
    assert (store / "3.txt").read_text() == "18"
    assert read_manifest(store).config == {"settings": {"factor": 2}}
    assert beside(store) == ["store"]


def test_overwrite_that_fails_leaves_the_old_store_whole(store: Path) -> None:
    before = files_below(store)
    with pytest.raises(StageError, match="1 of 3 units failed"):
        run_stage(toy_stage(store, factor=2, bad=frozenset({4})), OVERWRITE)
    assert files_below(store) == before
    assert beside(store) == ["store", "store.new"]
    run_stage(toy_stage(store, factor=2), OVERWRITE)
    assert (store / "4.txt").read_text() == "32"
    assert beside(store) == ["store"]


def test_overwrite_continues_what_a_failed_one_left(store: Path) -> None:
    with pytest.raises(StageError):
        run_stage(toy_stage(store, factor=2, bad=frozenset({4})), OVERWRITE)
    made = (store.with_name("store.new") / "0.txt").stat().st_mtime_ns
    run_stage(toy_stage(store, factor=2), OVERWRITE)
    assert (store / "0.txt").stat().st_mtime_ns == made


def test_overwrite_of_another_plan_starts_afresh(store: Path) -> None:
    with pytest.raises(StageError):
        run_stage(toy_stage(store, factor=2, bad=frozenset({4})), OVERWRITE)
    run_stage(toy_stage(store, factor=3), OVERWRITE)
    assert (store / "0.txt").read_text() + (store / "1.txt").read_text() == "03"
    assert beside(store) == ["store"]


def test_create_that_fails_claims_no_folder(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "units").mkdir(parents=True)
        raise DataError("a table is missing")

    with pytest.raises(DataError, match="a table is missing"):
        run_stage(replace(toy_stage(tmp_path / "toy"), create=broken), SYNC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["between", "before"])
def test_kill_during_the_exchange_is_mended(state: str, store: Path) -> None:
    with pytest.raises(StageError):
        run_stage(toy_stage(store, factor=2, bad=frozenset({4})), OVERWRITE)
    run_stage(toy_stage(store.with_name("other"), factor=2), SYNC)
    shutil.rmtree(store.with_name("store.new"))
    if state == "between":  # the new store is whole, the old one has been put aside
        store.with_name("other").rename(store.with_name("store.new"))
        store.rename(store.with_name("store.old"))
        run_stage(toy_stage(store, factor=2), SYNC)
        assert (store / "1.txt").read_text() == "2"
    else:
        shutil.rmtree(store.with_name("other"))
        store.rename(store.with_name("store.old"))
        run_stage(toy_stage(store), SYNC)
        assert (store / "1.txt").read_text() == "1"
    assert beside(store) == ["store"]


@pytest.mark.parametrize("name", ["thesis.txt", "units/notes.txt", "mine/photo.png", "9.text", "empty/"])
def test_foreign_files_are_named_and_kept(name: str, store: Path) -> None:
    path = store / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_text("years of work")
    before = files_below(store)
    with pytest.raises(ConfigError, match=rf"also holds {name.rstrip('/')}\. Nothing was deleted"):
        run_stage(toy_stage(store, factor=2), OVERWRITE)
    assert files_below(store) == before
    assert run_stage(toy_stage(store), SYNC).skipped  # beside them, nothing else changes


def test_folder_with_units_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder `units` alone once let the whole folder be deleted."""
    (tmp_path / "out/units").mkdir(parents=True)
    (tmp_path / "out/thesis.txt").write_text("years of work")
    for runtime in (SYNC, OVERWRITE):
        with pytest.raises(ConfigError, match=r"was not made by this stage .*holds thesis.txt"):
            run_stage(toy_stage(tmp_path / "out"), runtime)
    assert (tmp_path / "out/thesis.txt").read_text() == "years of work"


def test_foreign_file_that_arrives_during_an_overwrite_is_kept(store: Path) -> None:
    stage = toy_stage(store, factor=2)

    def work(folder: Path, unit: Unit) -> UnitReport:
        (store / "late.md").write_text("just written")
        return stage.work(folder, unit)

    run_stage(replace(stage, work=work), OVERWRITE)
    assert (store.with_name("store.old") / "late.md").read_text() == "just written"
    assert beside(store) == ["store", "store.old"]


def test_file_where_the_folder_goes_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("a file")
    with pytest.raises(DataError, match="toy is a file, expected a folder"):
        run_stage(toy_stage(tmp_path / "toy"), SYNC)


@pytest.mark.parametrize("name", ["4.txt", "checksums.npy", "zarr.json", "units/part-00001.json"])
def test_rerun_makes_lost_units_again(name: str, store: Path) -> None:
    before = files_below(store)
    kept_ns = (store / "0.txt").stat().st_mtime_ns
    (store / name).unlink()
    if name == "zarr.json":  # made by `create`, before the units: only all of it can be made again
        with pytest.raises(DataError, match=r"zarr.json is gone\. Run again with --overwrite"):
            run_stage(toy_stage(store), SYNC)
        return
    run_stage(toy_stage(store), SYNC)
    assert files_below(store) == before
    assert (store / "0.txt").stat().st_mtime_ns == kept_ns


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"done": 1}', '{"done": 3, "dropped": {}, "cou'])
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_marker_makes_its_unit_again(text: str, finished: bool, store: Path) -> None:
    before = files_below(store)
    (store / "units/part-00001.json").write_text(text)
    if not finished:
        (store / "manifest.json").unlink()
    run_stage(toy_stage(store), SYNC)
    assert files_below(store) == before


def test_drop_goes_on_where_fail_stopped(tmp_path: Path) -> None:
    with pytest.raises(StageError):
        run_stage(toy_stage(tmp_path / "toy", bad=frozenset({4})), SYNC)
    made_ns = (tmp_path / "toy/0.txt").stat().st_mtime_ns
    summary = run_stage(toy_stage(tmp_path / "toy", bad=frozenset({4}), on_error="drop"), DROP)
    assert (summary.done, summary.dropped) == (6, {"s4": "file f4 is missing"})
    assert (tmp_path / "toy/0.txt").stat().st_mtime_ns == made_ns
    assert run_stage(toy_stage(tmp_path / "toy", bad=frozenset({4})), SYNC).skipped


def test_fail_tries_dropped_samples_again_before_the_stage_is_finished(tmp_path: Path) -> None:
    run_stage(toy_stage(tmp_path / "toy", bad=frozenset({4}), on_error="drop"), DROP)
    (tmp_path / "toy/manifest.json").unlink()
    summary = run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert (summary.done, summary.dropped) == (7, {})


def test_second_driver_is_refused(store: Path) -> None:
    lock_path(store).write_text(json.dumps(Holder.this()._asdict()))
    with pytest.raises(ConfigError, match=rf"being written by process {os.getpid()} on "):
        run_stage(toy_stage(store, factor=2), OVERWRITE)
    assert run_stage(toy_stage(store), SYNC).skipped  # a finished stage is only read


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from pipelines.stage import run_stage
from tests.pipelines.test_stage import SYNC, toy_stage
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
stage = toy_stage(Path(sys.argv[1]), factor=2)
def work(folder, unit):
    report = stage.work(folder, unit)
    if unit.name == "part-00001":
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return report
run_stage(replace(stage, work=work), replace(SYNC, overwrite=True))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_killed_overwrite_leaves_the_old_store_and_goes_on(name: str, store: Path) -> None:
    before = files_below(store)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(store), name], cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -getattr(signal, name)
    assert files_below(store) == before
    assert run_stage(toy_stage(store), SYNC).skipped
    made_ns = (store.with_name("store.new") / "0.txt").stat().st_mtime_ns
    run_stage(toy_stage(store, factor=2), OVERWRITE)  # takes over the dead process's lock
    assert (store / "0.txt").stat().st_mtime_ns == made_ns
    assert (store / "6.txt").read_text() == "72"
    assert beside(store) == ["store"]


def test_read_only_folder_of_a_finished_stage_can_be_read(store: Path) -> None:
    store.parent.chmod(0o555)
    store.chmod(0o555)
    try:
        assert run_stage(toy_stage(store), Runtime()).skipped
    finally:
        store.parent.chmod(0o755)
        store.chmod(0o755)
