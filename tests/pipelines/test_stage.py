"""The stage contract on a toy stage: kill and rerun, changed configuration, drop, fail, schedulers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipelines.files import folder_bytes, write_bytes
from pipelines.manifests import read_marker
from pipelines.scheduler import Scheduler
from pipelines.stage import (
    Layout,
    Piece,
    Runtime,
    Stage,
    Unit,
    UnitReport,
    read_manifest,
    run_stage,
    scene_units,
    units_of,
)
from schemas.errors import ConfigError, DataError, StageError
from schemas.outside import Source, check_nesting
from schemas.outside.limits import JSON_BYTES, JSON_VALUES, STAGE_BYTES
from schemas.records import RecordEntry
from tests.folders import files_below

NUM_RECORDS = 7
SYNC = Runtime(scheduler=Scheduler(kind="sync"))


def write_squares(bad: frozenset[int], on_error: str, factor: int, folder: Path, unit: Unit) -> UnitReport:
    """Writes one file per record; records in ``bad`` are broken."""
    dropped = {}
    for index in (entry.row for entry in unit.entries):
        if index in bad:
            if on_error == "fail":
                raise DataError(f"sample s{index}: file f{index} is missing. Restore it.")
            dropped[f"s{index}"] = f"file f{index} is missing"
            continue
        write_bytes(folder / f"{index}.txt", str(factor * index * index).encode())
    return UnitReport(done=unit.size - len(dropped), dropped=dropped, counts={"records": float(unit.size)})


def toy_stage(folder: Path, *, bad: frozenset[int] = frozenset(), on_error: str = "fail", factor: int = 1) -> Stage:
    return Stage(
        name="toy",
        folder=folder,
        config={"settings": {"factor": factor}},
        inputs={"records": "abc"},
        units=units_of(entries(NUM_RECORDS), 3),
        work=partial(write_squares, bad, on_error, factor),
        create=lambda path: write_bytes(path / "zarr.json", b"{}"),
        finish=lambda path: {"texts": len(list(path.glob("*.txt")))},
        layout=Layout(("zarr.json", *(f"{row}.txt" for row in range(7))), squares_of, ("zarr.json",), has_rows=True),
    )


def squares_of(unit: Unit) -> list[Piece]:
    return [Piece(entry.token, (f"{entry.row}.txt",)) for entry in unit.entries]


def entries(count: int, scene: str = "a") -> list[RecordEntry]:
    return [RecordEntry(row, f"s{row}", scene, row, ("train",), row, row + 1) for row in range(count)]


def rows(units: list[Unit]) -> list[tuple[str, int, list[int]]]:
    return [(unit.name, unit.size, [entry.row for entry in unit.entries]) for unit in units]


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, bytes]:
    """Files of an uninterrupted run."""
    run_stage(toy_stage(tmp_path / "clean"), SYNC)
    return files_below(tmp_path / "clean")


def test_units_cover_all_records_once() -> None:
    assert rows(units_of(entries(7), 3)) == [
        ("part-00000", 3, [0, 1, 2]),
        ("part-00001", 3, [3, 4, 5]),
        ("part-00002", 1, [6]),
    ]
    assert units_of([], 3) == []
    assert [u.size for u in units_of(entries(3), 3)] == [3]


def test_scene_units_join_neighbours() -> None:
    a, b = entries(2), [entry._replace(row=2, scene="b") for entry in entries(1)]
    assert rows(scene_units([*a, *b])) == [("a", 2, [0, 1]), ("b", 1, [2])]
    assert scene_units([]) == []


def test_manifest_comes_last_and_says_all(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    summary = run_stage(
        toy_stage(tmp_path / "toy"), replace(SYNC, on_progress=lambda done, total: progress.append((done, total)))
    )
    manifest = read_manifest(tmp_path / "toy")
    assert (manifest.done, manifest.dropped, manifest.counts) == (7, {}, {"records": 7.0})
    assert manifest.model_extra == {"texts": 7}
    assert (summary.done, summary.skipped) == (7, False)
    assert progress == [(0, 7), (3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_scheduler_does_not_change_the_bytes(kind: str, tmp_path: Path, clean: dict[str, bytes]) -> None:
    run_stage(toy_stage(tmp_path / "toy"), Runtime(scheduler=Scheduler(kind=kind, workers=2)))
    assert files_below(tmp_path / "toy") == clean


def test_unknown_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--scheduler fast: expected sync, threads, processes or an address"):
        run_stage(toy_stage(tmp_path / "toy"), Runtime(scheduler=Scheduler(kind="fast")))


def test_finished_stage_is_skipped(tmp_path: Path, clean: dict[str, bytes]) -> None:
    stage = toy_stage(tmp_path / "clean", bad=frozenset(range(7)))  # would fail if it ran
    assert run_stage(stage, SYNC).skipped
    assert files_below(tmp_path / "clean") == clean


@pytest.mark.parametrize("num_done", [0, 1, 2, 3])
def test_finished_units_are_kept(num_done: int, tmp_path: Path, clean: dict[str, bytes]) -> None:
    folder = tmp_path / "clean"
    (folder / "manifest.json").unlink()
    for unit in units_of(entries(NUM_RECORDS), 3)[num_done:]:
        (folder / "units" / f"{unit.name}.json").unlink()
    (folder / "6.txt.partial").write_bytes(b"3")
    kept_s = [(folder / f"{i}.txt").stat().st_mtime_ns for i in range(3 * num_done)[:NUM_RECORDS]]
    run_stage(toy_stage(folder), SYNC)
    assert files_below(folder) == clean
    assert [(folder / f"{i}.txt").stat().st_mtime_ns for i in range(len(kept_s))] == kept_s


KILLED_RUN = """
import os, signal, sys
from functools import partial
from pathlib import Path
from dataclasses import replace
from pipelines.stage import run_stage, UnitReport
from tests.pipelines.test_stage import SYNC, toy_stage
stage = toy_stage(Path(sys.argv[1]))
def work(folder, unit):
    report = stage.work(folder, unit)
    if unit.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)  # after the bytes, before the marker
    return report
run_stage(replace(stage, work=work), SYNC)
"""


@pytest.mark.parametrize("unit", ["part-00000", "part-00002"])
def test_killed_run_ends_in_the_same_bytes(unit: str, tmp_path: Path, clean: dict[str, bytes]) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(tmp_path / "toy"), unit], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="is not finished"):
        read_manifest(tmp_path / "toy")
    run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert files_below(tmp_path / "toy") == clean


def test_interrupted_create_starts_afresh(tmp_path: Path, clean: dict[str, bytes]) -> None:
    write_bytes(tmp_path / "toy.new/zarr.json", b"half")
    run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert files_below(tmp_path / "toy") == clean


def test_changed_config_is_refused_by_name(tmp_path: Path, clean: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError, match=r"config.settings.factor: was 1, now 2\nRun again with --overwrite"):
        run_stage(toy_stage(tmp_path / "clean", factor=2), SYNC)
    assert files_below(tmp_path / "clean") == clean
    run_stage(toy_stage(tmp_path / "clean", factor=2), replace(SYNC, overwrite=True))
    assert read_manifest(tmp_path / "clean").config == {"settings": {"factor": 2}}


def test_run_that_finished_no_unit_claims_no_folder(tmp_path: Path, clean: dict[str, bytes]) -> None:
    """What failed at once may be tried with other settings, without --overwrite."""
    bad = frozenset(range(NUM_RECORDS))
    with pytest.raises(StageError):
        run_stage(toy_stage(tmp_path / "toy", bad=bad, factor=2), SYNC)
    assert not (tmp_path / "toy").exists()
    run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert files_below(tmp_path / "toy") == clean


def test_killed_run_that_finished_no_unit_claims_no_folder(tmp_path: Path, clean: dict[str, bytes]) -> None:
    killed = replace(toy_stage(tmp_path / "toy", factor=2), work=_killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(killed, SYNC)
    assert (tmp_path / "toy/plan.json").is_file()
    run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert files_below(tmp_path / "toy") == clean


def _killed(folder: Path, unit: Unit) -> UnitReport:
    raise KeyboardInterrupt


def test_changed_input_is_refused_by_name(tmp_path: Path, clean: dict[str, bytes]) -> None:
    stage = replace(toy_stage(tmp_path / "clean"), inputs={"records": "xyz"})
    with pytest.raises(ConfigError, match="inputs.records: was 'abc', now 'xyz'"):
        run_stage(stage, SYNC)


def test_failure_names_every_bad_unit_and_keeps_the_good(tmp_path: Path, clean: dict[str, bytes]) -> None:
    folder = tmp_path / "toy"
    with pytest.raises(StageError) as caught:
        run_stage(toy_stage(folder, bad=frozenset({1, 6})), SYNC)
    message = str(caught.value)
    assert "2 of 3 units failed" in message
    assert "part-00000: sample s1: file f1 is missing" in message
    assert "part-00002: sample s6: file f6 is missing" in message
    assert message.endswith("leave them out with --on-error drop.")
    assert [path.name for path in (folder / "units").iterdir()] == ["part-00001.json"]
    assert not (folder / "manifest.json").exists()
    run_stage(toy_stage(folder), SYNC)  # repaired
    assert files_below(folder) == clean


def test_dropped_samples_are_counted_with_reason(tmp_path: Path) -> None:
    runtime = replace(SYNC, on_error="drop")
    summary = run_stage(toy_stage(tmp_path / "toy", bad=frozenset({1, 6}), on_error="drop"), runtime)
    assert summary.done == 5
    assert summary.dropped == {"s1": "file f1 is missing", "s6": "file f6 is missing"}
    assert read_manifest(tmp_path / "toy").dropped == summary.dropped


def test_dropping_everything_fails(tmp_path: Path) -> None:
    stage = toy_stage(tmp_path / "toy", bad=frozenset(range(7)), on_error="drop")
    with pytest.raises(StageError, match="toy: every sample was dropped; first reason: file f0 is missing"):
        run_stage(stage, replace(SYNC, on_error="drop"))
    assert not (tmp_path / "toy/manifest.json").exists()


def test_bugs_are_not_dressed_as_user_errors(tmp_path: Path) -> None:
    def broken(folder: Path, unit: Unit) -> UnitReport:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run_stage(replace(toy_stage(tmp_path / "toy"), work=broken), SYNC)


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_left_alone(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"holiday")
    with pytest.raises(ConfigError, match=r"exists and was not made by this stage .*photo.png"):
        run_stage(toy_stage(tmp_path), replace(SYNC, overwrite=overwrite))
    assert (tmp_path / "photo.png").read_bytes() == b"holiday"


def test_other_format_version_is_refused(tmp_path: Path, clean: dict[str, bytes]) -> None:
    path = tmp_path / "clean/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="has format version 99, this program reads 2"):
        read_manifest(tmp_path / "clean")


def test_damaged_manifest_is_named(tmp_path: Path, clean: dict[str, bytes]) -> None:
    for text in ('{"done": 7', "", "[]", "null", '{"done": 7}', "\xff"):
        (tmp_path / "clean/manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"(?s)manifest.json is damaged: .*--overwrite"):
            run_stage(toy_stage(tmp_path / "clean"), SYNC)


def test_damaged_plan_is_named(tmp_path: Path, clean: dict[str, bytes]) -> None:
    digits = '{"stage": ' + "9" * 5000 + "}"
    for text in ("{", "", "[]", "null", '{"stage": "toy"}', r'["\ud800"]', "[" * 100_000, digits):
        (tmp_path / "clean/plan.json").write_text(text)
        with pytest.raises(DataError, match=r"(?s)plan.json(?: is damaged:|: nested) .*--overwrite"):
            run_stage(toy_stage(tmp_path / "clean"), SYNC)
    run_stage(toy_stage(tmp_path / "clean"), replace(SYNC, overwrite=True))
    assert files_below(tmp_path / "clean") == clean


@pytest.mark.parametrize("text", ["[" * 100_000, '{"done": ' + "9" * 5000 + "}", r'{"done": "\ud800"}'])
def test_marker_beyond_the_limits_is_a_unit_to_do(text: str, tmp_path: Path, clean: dict[str, bytes]) -> None:
    path = min((tmp_path / "clean/units").iterdir())
    path.write_text(text)
    assert read_marker(tmp_path / "clean", path.stem) is None


def test_stage_files_of_all_of_nuscenes_are_within_the_limits(tmp_path: Path, clean: dict[str, bytes]) -> None:
    """34,149 keyframes left out, each with a reason; 1.4 million sweeps in the marker of one unit."""
    manifest = json.loads((tmp_path / "clean/manifest.json").read_text())
    reason = "sample: image samples/CAM_FRONT/x.jpg cannot be read: it ends early. Copy it again. " * 4
    manifest["dropped"] = {f"{number:032x}": reason for number in range(34_149)}
    (tmp_path / "clean/manifest.json").write_text(json.dumps(manifest))
    assert len(read_manifest(tmp_path / "clean").dropped) == 34_149
    name = "sweeps/LIDAR_TOP/n015-2018-07-24-11-22-45+0800__LIDAR_TOP__1532402927647951.pcd.bin"
    row = json.dumps({"read": {name: [700_000, 2**62, "0" * 64]}}, indent=1)
    assert 1_400_000 * len(row) < STAGE_BYTES
    assert 1_400_000 * (row.count(",") + 1) < JSON_VALUES * STAGE_BYTES // JSON_BYTES
    check_nesting(Source("marker"), b",".join([row.encode()] * 200_000), STAGE_BYTES)


def test_manifest_knows_the_size_of_the_other_files(tmp_path: Path, clean: dict[str, bytes]) -> None:
    size = sum(len(data) for name, data in clean.items() if name != "manifest.json")
    assert run_stage(toy_stage(tmp_path / "clean"), SYNC).num_bytes == size
    assert folder_bytes(tmp_path / "clean") == sum(map(len, clean.values()))
    assert folder_bytes(tmp_path / "nothing") == 0
