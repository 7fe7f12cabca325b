"""Tables as converters write them: rows twice, loops, names of files and scenes, times, numbers, holes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.prepare import prepare
from pipelines.prepare.nuscenes.file_names import relative_name
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError, StageError
from schemas.records import SampleRecord, read_index, read_records
from tests.pipelines.world_edits import TABLES, Rows, edit_table, link_tree, replace_file

Edit = Callable[[Rows], object]


@pytest.fixture
def copy(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """The tiny world with tables that may be edited."""
    root = link_tree(world_dataset.root, tmp_path / "copy")
    return world_dataset.model_copy(update={"root": root, "work": tmp_path / "work"})


def edit(dataset: DatasetSpec, table: str, change: Edit) -> None:
    edit_table(dataset.root / TABLES / f"{table}.json", change)


def records_of(work: Path) -> list[SampleRecord]:
    return read_records(work / "records", read_index(work / "records"))


def each(**fields: Callable[[Any], Any]) -> Edit:
    """Changes some fields of every row."""
    return lambda rows: [row.update({name: change(row[name]) for name, change in fields.items()}) for row in rows]


def double(rows: Rows) -> None:
    rows.append(dict(rows[0]))


def test_rows_that_are_there_twice_count_once(copy: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    for table in ("sample", "sample_annotation", "scene", "sensor"):
        edit(copy, table, double)
    prepare(copy, copy.work, sync_runtime)
    assert records_of(copy.work) == records_of(prepared)


def other_row(field: str, value: object) -> Edit:
    return lambda rows: rows.append({**rows[0], field: value})


def second(field: str, change: Callable[[Rows], Any]) -> Edit:
    return lambda rows: rows[1].update({field: change(rows)})


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample", other_row("timestamp", 5), r"sample.json: different rows have the token '\w+'"),
        ("sample_annotation", other_row("size", [1, 1, 1]), "different rows have the token"),
        ("scene", second("name", lambda rows: rows[0]["name"]), r"rows .* are both called 'synth-0000'"),
        ("scene", second("name", lambda rows: None), "has the name None, expected a text"),
        ("sample", second("timestamp", lambda rows: rows[0]["timestamp"]), "have the same timestamp 1600000000000000"),
        ("sample", second("timestamp", lambda rows: math.nan), "timestamp nan, expected a whole number"),
        ("sample", second("timestamp", lambda rows: "noon"), "timestamp 'noon', expected a whole number"),
        ("sample", each(timestamp=lambda time: time / 1e6 + 0.25), "expected a whole number of microseconds"),
        ("sample", each(timestamp=lambda time: time // 1_000_000), "have the same timestamp|s apart"),
        ("sample", each(timestamp=lambda time: time * 1000), "lie 500 s apart.*Timestamps are microseconds"),
        ("sample", second("token", lambda rows: ["a"]), "expected a list of rows with a `token`"),
        ("sample", second("scene_token", lambda rows: {}), "which is not in scene.json"),
        ("sample_data", second("is_key_frame", lambda rows: "x"), "no error of the program"),
    ],
)
def test_tables_that_cannot_be(
    table: str, change: Edit, message: str, copy: DatasetSpec, sync_runtime: Runtime
) -> None:
    edit(copy, table, change)
    if message == "no error of the program":  # Python takes any value for a yes or no
        prepare(copy, copy.work, sync_runtime)
        return
    with pytest.raises(DataError, match=message):
        prepare(copy, copy.work, sync_runtime)
    assert not copy.work.exists() or list(copy.work.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample_annotation", ("translation", [math.nan, 0, 0]), "bad translation_m.0 = nan"),
        ("sample_annotation", ("size", [1.0, math.nan, 1.0]), "bad size_lwh_m"),
        ("sample_annotation", ("size", [1.0, 1.0]), r"bad size_lwh_m\.2|bad size_lwh_m"),
        ("sample_annotation", ("size", "big"), "bad size_lwh_m = 'big'"),
        ("sample_annotation", ("size", [1.0, -1.0, 1.0]), "greater than 0"),
        ("sample_annotation", ("rotation", None), "bad rotation_wxyz = None"),
        ("ego_pose", ("translation", [math.inf, 0, 0]), "bad translation_m.0 = inf"),
        ("ego_pose", ("translation", [1e9, 0, 0]), "less than or equal to 21000000"),
        ("ego_pose", ("rotation", [2.0, 0, 0, 0]), "length 2 instead of 1"),
        ("calibrated_sensor", ("translation", [5000.0, 0, 0]), "a sensor beyond 1000 m"),
        ("calibrated_sensor", ("camera_intrinsic", [[0, 0, 0]] * 3), "focal lengths"),
        ("calibrated_sensor", ("camera_intrinsic", 7), "bad intrinsics = 7"),
        ("sample_data", ("timestamp", 1.5), "from its sample's"),
        ("sample_data", ("timestamp", "noon"), "value of another kind"),
        ("sample_data", ("filename", ""), "is no file name"),
        ("sample_data", ("filename", "../samples/x.jpg"), "leaves the dataset's root"),
        ("sample_data", ("filename", "/elsewhere/x.jpg"), "is absolute and not below"),
    ],
)
def test_a_bad_row_costs_its_samples(
    table: str, change: tuple[str, object], message: str, copy: DatasetSpec, prepared: Path, sync_runtime: Runtime
) -> None:
    """The message names the row; the samples that need it can be left out."""
    camera = records_of(prepared)[0].cameras["CAM_FRONT"]
    data = next(row for row in rows_of(copy, "sample_data") if row["token"] == camera.token)
    token = {
        "sample_data": camera.token,
        "ego_pose": data["ego_pose_token"],
        "calibrated_sensor": data["calibrated_sensor_token"],
        "sample_annotation": records_of(prepared)[0].boxes[0].token,
    }[table]
    edit(copy, table, lambda rows: [row.update([change]) for row in rows if row["token"] == token])
    with pytest.raises(StageError, match=message) as error:
        prepare(copy, copy.work, sync_runtime)
    assert token in str(error.value) or "another kind" in message
    summary = prepare(copy, copy.work, replace(sync_runtime, on_error="drop", overwrite=True))
    assert 2 <= summary.done <= 3


def rows_of(dataset: DatasetSpec, table: str) -> Rows:
    rows: Rows = json.loads((dataset.root / TABLES / f"{table}.json").read_bytes())
    return rows


def test_chains_of_sweeps_end(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    def loop(rows: Rows) -> None:
        for row in rows:
            if "sweeps/LIDAR" in row["filename"]:
                row["prev"] = row["token"]

    edit(copy, "sample_data", loop)
    with pytest.raises(StageError, match="sample_data.json: following `prev` from row .* has no end"):
        prepare(copy, copy.work, sync_runtime)


def test_two_images_of_one_camera(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    def again(rows: Rows) -> None:
        rows.append({**next(row for row in rows if "CAM_BACK/" in row["filename"]), "token": "again"})

    edit(copy, "sample_data", again)
    with pytest.raises(StageError, match="has more than one keyframe of CAM_BACK for this sample"):
        prepare(copy, copy.work, sync_runtime)


def windows(name: str) -> str:
    return name.replace("/", "\\")


@pytest.mark.parametrize("write", [windows, lambda name: f"/data/nuscenes/{name}", lambda name: f"D:\\data\\{name}"])
def test_names_of_files_become_relative(
    write: Callable[[str], str], copy: DatasetSpec, prepared: Path, sync_runtime: Runtime
) -> None:
    for table in ("sample_data", "map", "lidarseg"):
        edit(copy, table, each(filename=write))
    for path in (copy.root / TABLES).glob("*.json"):
        replace_file(path, b"\xef\xbb\xbf" + path.read_bytes())  # a byte-order mark
    prepare(copy, copy.work, sync_runtime)
    assert records_of(copy.work) == records_of(prepared)


def test_relative_names() -> None:
    root = Path("/home/me/data")
    assert relative_name(root, "/home/me/data/own/x.jpg") == "own/x.jpg"
    assert relative_name(root, "./samples//x.jpg") == "samples/x.jpg"
    for name in ("", None, 5, "..\\x", "samples/../../x", "/x.jpg", "C:\\x.jpg", "a\0b"):
        with pytest.raises(ValueError, match="no file name|root"):
            relative_name(root, name)


def no_rows(rows: Rows) -> None:
    rows.clear()


def test_nothing_annotated_and_no_map(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    for table in ("sample_annotation", "instance", "map", "attribute", "visibility"):
        edit(copy, table, no_rows)
    summary = prepare(copy, copy.work, sync_runtime)
    counts = summary.counts
    assert summary.done == counts["without_map"] == counts["without_boxes"] == 4
    assert counts["outside_map"] == counts["boxes"] == 0


def test_a_map_beside_the_drive_is_counted(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    for path in (copy.root / "maps").glob("*.png"):
        replace_file(path, b"")
        Image.fromarray(np.full((10, 10), 255, np.uint8)).save(path)
    assert prepare(copy, copy.work, sync_runtime).counts["outside_map"] == 4


@pytest.mark.parametrize("name", ["run.2024.05.01", "2024/05/01_drive", "..", "Fahrt ä \\", "x" * 300, "CON", "-"])
def test_scenes_of_any_name(name: str, copy: DatasetSpec, sync_runtime: Runtime) -> None:
    edit(copy, "scene", lambda rows: rows[0].update(name=name))
    dataset = copy.model_copy(update={"splits": {**copy.splits, "train": SplitSpec(scenes=(name,))}})
    prepare(dataset, copy.work, sync_runtime)
    records = records_of(copy.work)
    assert [record.scene for record in records].count(name) == 2
    window = next(record.map_window for record in records if record.scene == name)
    assert window is not None
    assert (copy.work / "records/maps").resolve() == (copy.work / "records" / window.path).resolve().parent


def remove(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).unlink()


def test_holes_cost_only_themselves(copy: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    """One sweep missing, one cut, one file of point labels missing."""
    first, second = records_of(prepared)[:2]
    assert len(second.sweeps) == 2 and first.lidar is not None and first.lidar.labels_path is not None
    remove(copy.root, [second.sweeps[0].path, first.lidar.labels_path])
    path = copy.root / second.sweeps[1].path
    replace_file(path, path.read_bytes()[:-3])
    with pytest.raises(StageError, match=r"(?s)missing.*--on-error drop leaves out this file alone"):
        prepare(copy, copy.work, sync_runtime)
    summary = prepare(copy, copy.work, replace(sync_runtime, on_error="drop", overwrite=True))
    assert (summary.done, summary.dropped) == (4, {})
    assert (summary.counts["sweeps_missing"], summary.counts["point_labels_missing"]) == (2, 1)
    found = records_of(copy.work)
    assert found[1].sweeps == () and found[0].lidar == first.lidar.model_copy(update={"labels_path": None})
    assert found[2:] == records_of(prepared)[2:]


def test_without_a_folder_of_sweeps(
    copy: DatasetSpec, prepared: Path, sync_runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    remove(copy.root, [sweep.path for record in records_of(prepared) for sweep in record.sweeps])
    (copy.root / "sweeps/LIDAR_TOP").rmdir()
    summary = prepare(copy, copy.work, sync_runtime)
    assert (summary.done, summary.counts["sweeps"], summary.counts["sweeps_missing"]) == (4, 0, 0)
    assert sum("records get no sweeps from it" in message for message in caplog.messages) == 1


def test_sweeps_in_another_folder(copy: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    (copy.root / "sweeps/LIDAR_TOP").rename(copy.root / "more")
    edit(copy, "sample_data", each(filename=lambda name: name.replace("sweeps/LIDAR_TOP", "more")))
    summary = prepare(copy, copy.work, sync_runtime)
    assert summary.counts["sweeps"] == sum(len(record.sweeps) for record in records_of(prepared)) > 0
