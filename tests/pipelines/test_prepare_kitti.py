"""`prepare` on SemanticKITTI's layout: poses, projections, keyframes and splits, files that are missing or broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.prepare import prepare
from pipelines.prepare.semantickitti import SemanticKittiSource
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError, StageError
from schemas.records import SampleRecord, read_index, read_records
from schemas.semantickitti import SPLITS
from tests.pipelines.kitti_files import REAL_CALIB, kitti_entry, write_scan, write_sequence

TRUE_SCANS = {
    **{"00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761, "06": 1101, "07": 1101},
    **{"08": 4071, "09": 1591, "10": 1201},
}
"""Lines of poses.txt of the official sequences."""


def records_of(dataset: DatasetSpec) -> list[SampleRecord]:
    folder = dataset.work / "records"
    return read_records(folder, read_index(folder))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequence 00 with 12 scans, all of them with files."""
    write_sequence(tmp_path, "00", 12, range(12))
    return tmp_path


def test_each_fifth_scan_is_a_keyframe_and_the_others_are_sweeps(root: Path, sync_runtime: Runtime) -> None:
    dataset = kitti_entry(root)
    summary = prepare(dataset, dataset.work, sync_runtime)
    first, second, third = records_of(dataset)
    assert [record.token for record in (first, second, third)] == ["00-000000", "00-000005", "00-000010"]
    assert [sweep.token for sweep in second.sweeps] == ["00-000001", "00-000002", "00-000003", "00-000004"]
    assert first.sweeps == ()
    assert (second.scene, second.frame, second.timestamp_us, second.splits) == ("00", 1, 500_000, ("train",))
    assert (second.previous, second.next) == ("00-000000", "00-000010")
    assert second.keyframe_sweep.path == "dataset/sequences/00/velodyne/000005.bin"
    assert second.keyframe_sweep.labels_path == "dataset/sequences/00/labels/000005.label"
    assert second.cameras["image_2"].path == "dataset/sequences/00/image_2/000005.png"
    assert (summary.done, summary.counts["sweeps"], summary.counts["sweeps_missing"]) == (3, 8, 0)


def test_poses_are_those_of_the_lidar(root: Path, sync_runtime: Runtime) -> None:
    """5 m along camera 0's axis are Tr^-1 (0, 0, 5) = 5 times the third row of its rotation: forwards and level."""
    dataset = kitti_entry(root)
    prepare(dataset, dataset.work, sync_runtime)
    first, second, _ = records_of(dataset)
    np.testing.assert_allclose(first.global_from_ego, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(second.global_from_ego[:3, 3], [4.99987, 0.00243, -0.03603], atol=1e-5)
    np.testing.assert_array_equal(second.keyframe_sweep.ego_from_lidar.matrix, np.eye(4))


@pytest.mark.parametrize(("projection", "offset_px"), [("exact", 9.0), ("peer", 0.0)])
def test_projection_follows_the_fourth_column(
    root: Path, sync_runtime: Runtime, projection: str, offset_px: float
) -> None:
    """At 5 m ahead the fourth column of P2 moves a point by (45.38225 - 607.1928 * 0.00378) / 5 = 8.6 pixels."""
    dataset = kitti_entry(root, projection=projection)
    prepare(dataset, dataset.work, sync_runtime)
    store = open_store(dataset.work / "geometry.zarr", "geometry")
    image_from_ego = np.eye(4)
    image_from_ego[:3, :3] = store["image_from_camera"][1, 0]
    image_from_ego = image_from_ego @ store["camera_from_ego"][1, 0]
    rows = [line.partition(":")[2].split() for line in REAL_CALIB.splitlines()]
    p2, tr = (np.array(rows[number], dtype=float).reshape(3, 4) for number in (2, 4))
    if projection == "peer":
        p2[:, 3] = 0
    ahead = np.array([5.27, 0.0, 0.0, 1.0])
    literal = p2 @ np.vstack([tr, [0, 0, 0, 1]]) @ ahead
    found = image_from_ego[:3] @ ahead
    np.testing.assert_allclose(found / found[2], literal / literal[2], atol=1e-3)
    no_column = np.hstack([p2[:, :3], np.zeros((3, 1))]) @ np.vstack([tr, [0, 0, 0, 1]]) @ ahead
    assert abs((found / found[2])[0] - (no_column / no_column[2])[0] - offset_px) < 0.6


def test_images_of_all_sizes_keep_their_camera_matrix(tmp_path: Path, sync_runtime: Runtime) -> None:
    """The crop starts in the upper left corner, so K stays as it is."""
    folder = write_sequence(tmp_path, "00", 11)
    for scan, size in ((0, (1241, 376)), (5, (1242, 375)), (10, (1226, 370))):
        write_scan(folder, scan, size)
    dataset = kitti_entry(tmp_path)
    prepare(dataset, dataset.work, sync_runtime)
    expected = [[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1]]
    np.testing.assert_allclose(
        open_store(dataset.work / "geometry.zarr", "geometry")["image_from_camera"][:, 0], [expected] * 3
    )
    write_scan(folder, 5, (1219, 376))
    with pytest.raises(ConfigError, match=r"000005.png .* is 1219x376 pixels, and the crop .* leaves it"):
        prepare(dataset, dataset.work, replace(sync_runtime, overwrite=True))


def test_official_splits_have_their_published_sizes(tmp_path: Path) -> None:
    for name, scans in TRUE_SCANS.items():
        write_sequence(tmp_path, name, scans)
    splits = {name: SplitSpec(official=name) for name in ("train", "val")}
    keyframes = SemanticKittiSource(kitti_entry(tmp_path, splits=splits)).keyframes()
    sizes = {name: sum(keyframe.splits == (name,) for keyframe in keyframes) for name in splits}
    assert sizes == {"train": 3834, "val": 815}
    assert {keyframe.scene for keyframe in keyframes} == {*SPLITS["train"], *SPLITS["val"]}


def test_test_frames_are_those_with_voxels(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, "11", 31)
    (folder / "voxels").mkdir()
    for name in ("000005.bin", "000006.bin", "000020.bin", "000010.label"):
        (folder / "voxels" / name).touch()
    source = SemanticKittiSource(kitti_entry(tmp_path, splits={"test": SplitSpec(official="test")}))
    assert [keyframe.token for keyframe in source.keyframes()] == ["11-000005", "11-000020"]
    (folder / "voxels" / "000035.bin").touch()
    with pytest.raises(DataError, match=r"voxels has scan 000035, poses.txt beside it ends at 000030"):
        source.keyframes()


def test_missing_keyframes_are_named_and_can_be_dropped(tmp_path: Path, sync_runtime: Runtime) -> None:
    write_sequence(tmp_path, "00", 16, (0, 5))
    dataset = kitti_entry(tmp_path)
    with pytest.raises(StageError, match=r"00-000010: \S*image_2/000010.png is missing.*--on-error drop"):
        prepare(dataset, dataset.work, sync_runtime)
    summary = prepare(dataset, dataset.work, replace(sync_runtime, on_error="drop"))
    assert summary.done == 2
    assert set(summary.dropped) == {"00-000010", "00-000015"}


def test_scans_between_keyframes_may_be_missing_altogether(tmp_path: Path, sync_runtime: Runtime) -> None:
    """Where the folder has keyframes alone that is counted; where it has some others, a missing one is an error."""
    folder = write_sequence(tmp_path, "00", 6, (0, 5))
    dataset = kitti_entry(tmp_path)
    summary = prepare(dataset, dataset.work, sync_runtime)
    assert (summary.counts["sweeps_missing"], records_of(dataset)[1].sweeps) == (4, ())
    write_scan(folder, 2)
    with pytest.raises(StageError, match=r"velodyne/000001.bin is missing"):
        prepare(dataset, dataset.work, replace(sync_runtime, overwrite=True))
    summary = prepare(dataset, dataset.work, replace(sync_runtime, overwrite=True, on_error="drop"))
    assert summary.counts["sweeps_missing"] == 3
    assert [sweep.token for sweep in records_of(dataset)[1].sweeps] == ["00-000002"]


DAMAGES = {
    "poses.txt": ("1 0 0 0 0 1 0 0 0 0 1\n", r"poses.txt: line 1 holds .* expected 12 numbers"),
    "times.txt": ("0\n0.1\n0.1\n", r"times.txt: line 3 holds 0.1 s, which is not later than the line before"),
    "calib.txt": ("P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", r"calib.txt: line `Tr:` is missing; lines there: P2"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_broken_tables_are_named(root: Path, sync_runtime: Runtime, name: str) -> None:
    text, message = DAMAGES[name]
    dataset = kitti_entry(root)
    (root / "dataset/sequences/00" / name).write_text(text)
    with pytest.raises((DataError, StageError), match=message):
        prepare(dataset, dataset.work, sync_runtime)


def test_rotations_that_are_none_are_refused(root: Path, sync_runtime: Runtime) -> None:
    dataset = kitti_entry(root)
    poses = root / "dataset/sequences/00/poses.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join([lines[0], "2 0 0 0 0 1 0 0 0 0 1 1", *lines[2:]]))
    with pytest.raises(StageError, match=r"poses.txt: pose 2 is none: .* is no rotation"):
        prepare(dataset, dataset.work, sync_runtime)


def test_missing_parts_say_where_they_come_from(root: Path, sync_runtime: Runtime) -> None:
    dataset = kitti_entry(root)
    with pytest.raises(DataError, match=r"folders of .* with `sequences`: dataset"):
        SemanticKittiSource(dataset.model_copy(update={"version": "data"})).keyframes()
    with pytest.raises(ConfigError, match="scene '07' is not in"):
        SemanticKittiSource(kitti_entry(root, ("07",))).keyframes()
    (root / "dataset/sequences/00/times.txt").unlink()
    with pytest.raises(DataError, match=r"00: times.txt is missing.*data_odometry_calib.zip"):
        prepare(dataset, dataset.work, sync_runtime)


def test_point_labels_of_another_length_are_named(root: Path, sync_runtime: Runtime) -> None:
    dataset = kitti_entry(root)
    np.zeros(99, dtype="<u4").tofile(root / "dataset/sequences/00/labels/000005.label")
    with pytest.raises(StageError, match=r"000005.label has 99 labels, 000005.bin has 100 points"):
        prepare(dataset, dataset.work, sync_runtime)


def test_new_poses_need_new_records(root: Path, sync_runtime: Runtime) -> None:
    dataset = kitti_entry(root)
    prepare(dataset, dataset.work, sync_runtime)
    poses = root / "dataset/sequences/00/poses.txt"
    poses.write_text(poses.read_text().replace(" 11\n", " 11.5\n"))
    with pytest.raises(ConfigError, match=r"poses.txt|tables"):
        prepare(dataset, dataset.work, sync_runtime)


def test_the_real_frames_are_prepared(real_kitti: Path, tmp_path: Path, sync_runtime: Runtime) -> None:
    """909 and 815 keyframes by their poses, of which two and one have their files."""
    splits = {"train": SplitSpec(scenes=("00",)), "val": SplitSpec(official="val")}
    dataset = kitti_entry(real_kitti, splits=splits).model_copy(update={"work": tmp_path})
    keyframes = SemanticKittiSource(dataset).keyframes()
    assert [sum(keyframe.scene == scene for keyframe in keyframes) for scene in ("00", "08")] == [909, 815]
    summary = prepare(dataset, tmp_path, replace(sync_runtime, on_error="drop"))
    assert [record.token for record in records_of(dataset)] == ["00-000000", "00-000005", "08-000000"]
    assert len(summary.dropped) == 907 + 814
    assert summary.counts["point_labels"] == 3
