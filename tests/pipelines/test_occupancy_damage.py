"""Damaged raw data on its way to labels: one clear error, or a counted drop; category tables of 23 and 32 rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.occupancy import LidarConfig, make_occupancy
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import NUSCENES_CATEGORIES
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError, StageError
from schemas.records import SampleRecord, read_index, read_records
from tests.conftest import SMALL_GRID

VERSION = "v1.0-synth"
DRIVEABLE, FREE, IGNORED = 11, 17, 255


@pytest.fixture
def copy(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """One scene of the tiny world, two keyframes, on 24 m x 24 m; its files are links that may be replaced."""
    root = tmp_path / "copy"
    for path in world_dataset.root.rglob("*"):
        if path.is_file():
            target = root / path.relative_to(world_dataset.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    splits = {"train": SplitSpec(scenes=("synth-0000",))}
    changes = {"root": root, "work": tmp_path / "work", "splits": splits, "grid": SMALL_GRID}
    return world_dataset.model_copy(update=changes)


@pytest.fixture
def victim(prepared: Path) -> SampleRecord:
    """Record of the second keyframe, whose files are damaged."""
    return read_records(prepared / "records", read_index(prepared / "records"))[1]


def replace_file(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def edit_table(root: Path, name: str, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    path = root / VERSION / f"{name}.json"
    rows = json.loads(path.read_text())
    edit(rows)
    replace_file(path, json.dumps(rows).encode())


def cut_sweep(root: Path, victim: SampleRecord) -> str:
    path = root / victim.sweeps[1].path
    replace_file(path, path.read_bytes()[:-7])
    return rf"{victim.token}.*{victim.sweeps[1].path}.*bytes, expected a multiple of 20"


def wild_box(root: Path, victim: SampleRecord) -> str:
    token = victim.boxes[0].token
    edit_table(
        root,
        "sample_annotation",
        lambda rows: [row.update(size=[2.0, -4.0, 1.5]) for row in rows if row["token"] == token],
    )
    return rf"sample {victim.token}.*row '{token}' holds a bad size_lwh_m\.\d = -4.0: .* greater than 0"


def jumping_pose(root: Path, victim: SampleRecord) -> str:
    rows = json.loads((root / VERSION / "sample_data.json").read_text())
    pose = next(row["ego_pose_token"] for row in rows if row["token"] == victim.lidar.token)

    def move(rows: list[dict[str, Any]]) -> None:
        (row,) = [row for row in rows if row["token"] == pose]
        row["translation"] = [row["translation"][0] + 100.0, *row["translation"][1:]]

    edit_table(root, "ego_pose", move)
    return rf"sample {victim.token}: ego_pose of {victim.lidar.path} jumps: from .* m in .*the limit is 60 m/s"


def short_lidarseg(root: Path, victim: SampleRecord) -> str:
    assert victim.lidar.labels_path is not None
    path = root / victim.lidar.labels_path
    replace_file(path, path.read_bytes()[:-5])
    return rf"sample {victim.token}.*labels, .* has \d+ points"


@pytest.mark.parametrize("damage", [wild_box, jumping_pose])
def test_prepare_names_or_drops(
    damage: Callable[[Path, SampleRecord], str], copy: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime
) -> None:
    message = damage(copy.root, victim)
    with pytest.raises(StageError, match=message):
        prepare(copy, copy.work, sync_runtime)
    summary = prepare(copy, copy.work, replace(sync_runtime, on_error="drop", overwrite=True))
    assert summary.done == 1 and list(summary.dropped) == [victim.token]


@pytest.mark.parametrize(("damage", "name"), [(cut_sweep, "sweeps"), (short_lidarseg, "point_labels")])
def test_prepare_names_or_leaves_out_what_a_keyframe_can_do_without(
    damage: Callable[[Path, SampleRecord], str],
    name: str,
    copy: DatasetSpec,
    victim: SampleRecord,
    sync_runtime: Runtime,
) -> None:
    message = damage(copy.root, victim)
    with pytest.raises(StageError, match=message):
        prepare(copy, copy.work, sync_runtime)
    summary = prepare(copy, copy.work, replace(sync_runtime, on_error="drop", overwrite=True))
    assert (summary.done, summary.dropped, summary.counts[f"{name}_missing"]) == (2, {}, 1)


def late_cut(root: Path, victim: SampleRecord) -> str:
    path = root / victim.sweeps[0].path
    replace_file(path, path.read_bytes()[:-7])
    return rf"{victim.sweeps[0].path} \(sample {victim.token}\): \d+ bytes, expected a multiple of 20.*copy it again"


def nan_points(root: Path, victim: SampleRecord) -> str:
    path = root / victim.lidar.path
    points = np.frombuffer(path.read_bytes(), "<f4").copy()
    points[5 * 11 + 2] = np.nan
    replace_file(path, points.tobytes())
    return rf"{victim.lidar.path} \(sample {victim.token}\): point 11 has a NaN"


def late_lidarseg(root: Path, victim: SampleRecord) -> str:
    assert victim.lidar.labels_path is not None
    path = root / victim.lidar.labels_path
    replace_file(path, path.read_bytes() + b"\x18")
    return rf"\(sample {victim.token}\): \d+ labels for \d+ points"


@pytest.mark.parametrize("damage", [nan_points, late_lidarseg])
def test_labels_name_or_drop_what_broke_after_prepare(
    damage: Callable[[Path, SampleRecord], str], copy: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime
) -> None:
    prepare(copy, copy.work, sync_runtime)
    message = damage(copy.root, victim)
    with pytest.raises(StageError, match=message):
        make_occupancy(copy, copy.work, LidarConfig(), sync_runtime)
    summary = make_occupancy(copy, copy.work, LidarConfig(), replace(sync_runtime, on_error="drop", overwrite=True))
    assert summary.done == 1 and list(summary.dropped) == [victim.token]
    rows = open_store(copy.work / "occupancy.zarr", "occupancy")["semantics"]
    assert (np.asarray(rows[1]) == IGNORED).all() and not (np.asarray(rows[0]) == IGNORED).all()


def wild_points(root: Path, victim: SampleRecord) -> str:
    path = root / victim.sweeps[0].path
    points = np.frombuffer(path.read_bytes(), "<f4").copy()
    points[5 * 3] = 1e5
    replace_file(path, points.tobytes())
    return r"point 3 of \d+ lies at \[100000.0, .*\] m; no LiDAR sees beyond 2000 m"


@pytest.mark.parametrize("damage", [late_cut, wild_points])
def test_labels_do_without_a_sweep_that_broke_after_prepare(
    damage: Callable[[Path, SampleRecord], str], copy: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime
) -> None:
    prepare(copy, copy.work, sync_runtime)
    message = damage(copy.root, victim)
    with pytest.raises(StageError, match=message):
        make_occupancy(copy, copy.work, LidarConfig(), sync_runtime)
    summary = make_occupancy(copy, copy.work, LidarConfig(), replace(sync_runtime, on_error="drop", overwrite=True))
    assert (summary.done, summary.dropped, summary.counts["sweeps_missing"]) == (2, {}, 1)


def labels_of(dataset: DatasetSpec, runtime: Runtime) -> tuple[np.ndarray, dict[str, float]]:
    """`semantics` of both keyframes and the counts of the stage."""
    prepare(dataset, dataset.work, runtime)
    summary = make_occupancy(dataset, dataset.work, LidarConfig(), runtime)
    return np.asarray(open_store(dataset.work / "occupancy.zarr", "occupancy")["semantics"][:]), dict(summary.counts)


def remove_lidarseg(root: Path) -> None:
    (root / VERSION / "lidarseg.json").unlink()


def test_23_categories_do_without_point_labels(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    """The table of plain nuScenes: object categories only, no `index`."""
    remove_lidarseg(copy.root)

    def keep_objects(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if not row["name"].startswith(("flat.", "static.", "noise", "vehicle.ego"))]
        for row in rows:
            del row["index"]

    edit_table(copy.root, "category", keep_objects)
    assert len(json.loads((copy.root / VERSION / "category.json").read_text())) == 23
    semantics, counts = labels_of(copy, sync_runtime)
    assert counts["voxels_map"] > 0 and counts["voxels_boxes"] > 0 and counts["voxels_ignored"] > 0
    assert "voxels_lidarseg" not in counts
    boxes = {
        box.label
        for record in read_records(copy.work / "records", read_index(copy.work / "records"))
        for box in record.boxes
    }
    assert set(np.unique(semantics).tolist()) <= boxes | {DRIVEABLE, FREE, IGNORED}


def test_23_categories_with_point_labels_are_refused(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    edit_table(copy.root, "category", lambda rows: [row.pop("index") for row in rows])
    with pytest.raises(DataError, match="category.json that comes with nuScenes-lidarseg"):
        prepare(copy, copy.work, sync_runtime)


def test_order_of_the_32_categories_does_not_matter(copy: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    semantics, counts = labels_of(copy, sync_runtime)
    assert counts["voxels_lidarseg"] > 0
    assert len(json.loads((copy.root / VERSION / "category.json").read_text())) == len(NUSCENES_CATEGORIES) == 32
    edit_table(copy.root, "category", lambda rows: rows.reverse())
    again, _ = labels_of(copy.model_copy(update={"work": tmp_path / "again"}), sync_runtime)
    assert np.array_equal(semantics, again)


def write_panoptic(dataset: DatasetSpec, records: list[SampleRecord]) -> None:
    """Files and table of nuScenes-panoptic with the categories of the world's lidarseg files."""
    folder = dataset.root / "panoptic" / VERSION
    folder.mkdir(parents=True)
    rows = []
    for record in records:
        assert record.lidar.labels_path is not None
        categories = np.fromfile(dataset.root / record.lidar.labels_path, np.uint8)
        path = folder / f"{record.lidar.token}_panoptic.npz"
        instances = np.arange(len(categories)) % 7
        np.savez_compressed(path, data=(1000 * categories.astype(np.uint16) + instances).astype(np.uint16))
        name = str(path.relative_to(dataset.root))
        rows.append({"token": record.lidar.token, "sample_data_token": record.lidar.token, "filename": name})
    (dataset.root / VERSION / "panoptic.json").write_text(json.dumps(rows))


@pytest.fixture
def panoptic(copy: DatasetSpec, prepared: Path) -> DatasetSpec:
    """`copy` with panoptic labels beside lidarseg."""
    write_panoptic(copy, read_records(prepared / "records", read_index(prepared / "records")))
    return copy


@pytest.mark.slow
def test_panoptic_gives_the_labels_of_lidarseg(panoptic: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    semantics, counts = labels_of(panoptic, sync_runtime)
    records = read_records(panoptic.work / "records", read_index(panoptic.work / "records"))
    assert all(str(record.lidar.labels_path).endswith("_lidarseg.bin") for record in records)  # lidarseg comes first
    remove_lidarseg(panoptic.root)
    other, other_counts = labels_of(panoptic.model_copy(update={"work": tmp_path / "again"}), sync_runtime)
    assert np.array_equal(semantics, other)
    assert other_counts["voxels_panoptic"] == counts["voxels_lidarseg"] and "voxels_lidarseg" not in other_counts


def no_data(path: Path) -> str:
    np.savez(path, labels=np.zeros(3, np.uint16))
    return "array 'data' is missing"


def two_axes(path: Path) -> str:
    np.savez(path, data=np.zeros((3, 2), np.uint16))
    return r"'data' is uint16 \(3, 2\), expected one whole number per point"


def huge(path: Path) -> str:
    np.savez(path, data=np.full(3, 300_000, np.int32))
    return "'data' holds 300000 to 300000"


def cut_archive(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:100])
    return "unreadable or cut short"


def other_length(path: Path) -> str:
    np.savez(path, data=np.full(3, 24_000, np.uint16))
    return r"has 3 labels, .* has \d+ points"


@pytest.mark.parametrize("damage", [no_data, two_axes, huge, cut_archive, other_length])
def test_broken_panoptic_files_are_named(
    damage: Callable[[Path], str], panoptic: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime
) -> None:
    remove_lidarseg(panoptic.root)
    path = panoptic.root / "panoptic" / VERSION / f"{victim.lidar.token}_panoptic.npz"
    message = damage(path)
    with pytest.raises(StageError, match=rf"{victim.token}.*{message}"):
        prepare(panoptic, panoptic.work, sync_runtime)
