"""Records and geometry of the tiny generated world and of the real keyframes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float

from pipelines.prepare import prepare
from pipelines.prepare.geometry import image_from_camera
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime, read_manifest
from pipelines.zarr_io import open_store
from schemas.datasets import NUSCENES_CAMERAS, DatasetSpec, SplitSpec
from schemas.geometry import project_points, transform_points
from schemas.images import ImageSpec
from schemas.records import CameraRecord, RigidPose, SampleRecord, read_index, read_records
from tests.folders import files_below

IDENTITY = RigidPose(rotation_wxyz=(1, 0, 0, 0), translation_m=(0, 0, 0))


@pytest.fixture(scope="module")
def real_dataset(real_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetSpec:
    return DatasetSpec(
        name="real",
        format="nuscenes",
        root=real_nuscenes,
        version="v1.0-mini",
        work=tmp_path_factory.mktemp("real"),
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={"train": SplitSpec(scenes=("scene-0916",), every=5, limit=8), "val": SplitSpec(official="mini_train")},
    )


@pytest.fixture(scope="module")
def real_records(real_dataset: DatasetSpec, sync_runtime: Runtime) -> list[SampleRecord]:
    prepare(real_dataset, real_dataset.work, sync_runtime)
    return read_records(real_dataset.work / "records", read_index(real_dataset.work / "records"))


def test_records_are_ordered_and_linked(prepared: Path) -> None:
    records = read_records(prepared / "records", read_index(prepared / "records"))
    assert [(record.scene, record.frame) for record in records] == [
        ("synth-0000", 0),
        ("synth-0000", 1),
        ("synth-0001", 0),
        ("synth-0001", 1),
    ]
    assert [record.splits for record in records] == [("train",), ("train",), ("val",), ("val",)]
    first, second = records[:2]
    assert (first.previous, first.next) == (None, second.token)
    assert (second.previous, second.next) == (first.token, None)
    assert first.timestamp_us < second.timestamp_us


def test_records_name_files_that_exist(prepared: Path, world: Path) -> None:
    for record in read_records(prepared / "records", read_index(prepared / "records")):
        assert tuple(record.cameras) == NUSCENES_CAMERAS
        assert record.map_window is not None and (prepared / "records" / record.map_window.path).is_file()
        labels = record.lidar.labels_path
        assert labels is not None and (world / labels).stat().st_size * 20 == (world / record.lidar.path).stat().st_size
        assert not Path(record.lidar.path).is_absolute()


def test_sweeps_lie_between_keyframes(prepared: Path) -> None:
    _, second = read_records(prepared / "records", read_index(prepared / "records"))[:2]
    times = [sweep.timestamp_us for sweep in second.sweeps]
    assert len(times) == 2
    assert times == sorted(times)
    assert times[-1] < second.lidar.timestamp_us


def test_boxes_are_length_first(prepared: Path, world: Path) -> None:
    rows = {row["token"]: row for row in json.loads((world / "v1.0-synth/sample_annotation.json").read_text())}
    boxes = [
        box for record in read_records(prepared / "records", read_index(prepared / "records")) for box in record.boxes
    ]
    assert len(boxes) == len(rows) > 0
    for box in boxes:
        width, length, height = rows[box.token]["size"]
        assert box.size_lwh_m == (length, width, height)
        assert box.num_lidar_pts == rows[box.token]["num_lidar_pts"]
    assert {box.label for box in boxes if box.category == "vehicle.car"} == {4}


def test_geometry_rows_follow_the_records(prepared: Path, world_dataset: DatasetSpec) -> None:
    records = read_records(prepared / "records", read_index(prepared / "records"))
    arrays = {name: array[:] for name, array in open_store(prepared / "geometry.zarr", "geometry").items()}
    assert arrays["image_from_camera"].shape == (4, 6, 3, 3)
    for row, record in enumerate(records):
        np.testing.assert_array_equal(arrays["global_from_ego"][row], record.global_from_ego)
        np.testing.assert_array_equal(arrays["camera_from_ego"][row, 5], record.camera_from_ego("CAM_BACK_RIGHT"))
        camera = record.cameras["CAM_FRONT"]
        np.testing.assert_array_equal(
            arrays["image_from_camera"][row, 0], image_from_camera(camera, world_dataset.image)
        )


def test_image_from_camera_scales_then_crops() -> None:
    camera = CameraRecord(
        token="c",
        path="c.jpg",
        timestamp_us=0,
        width=1600,
        height=900,
        intrinsics=((1000.0, 0.0, 800.0), (0.0, 1000.0, 450.0), (0.0, 0.0, 1.0)),
        ego_from_camera=IDENTITY,
        global_from_ego=IDENTITY,
    )
    # u: 0.5 * (1000, 800) - 10 = 500, 390; v: (270 / 900) * (1000, 450) - 20 = 300, 115
    found = image_from_camera(camera, ImageSpec(resize=(800, 270), crop=(10, 20, 700, 200)))
    np.testing.assert_allclose(found, [[500, 0, 390], [0, 300, 115], [0, 0, 1]], atol=1e-12)


def test_every_scheduler_writes_the_same_bytes(prepared: Path, world_dataset: DatasetSpec, tmp_path: Path) -> None:
    prepare(world_dataset, tmp_path / "work", Runtime(scheduler=Scheduler(kind="threads", workers=2)))
    assert files_below(tmp_path / "work/records") == files_below(prepared / "records")
    assert files_below(tmp_path / "work/geometry.zarr") == files_below(prepared / "geometry.zarr")


def test_rerun_does_nothing(prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    before = files_below(prepared)
    assert prepare(world_dataset, prepared, sync_runtime).skipped
    assert files_below(prepared) == before


def test_records_folder_holds_nothing_but_its_files(prepared: Path) -> None:
    assert {path.name for path in (prepared / "records").iterdir()} == {
        "samples.jsonl",
        "index.jsonl",
        "maps",
        "manifest.json",
        "plan.json",
        "units",
    }
    assert read_manifest(prepared / "records").counts["split_train"] == 2


def test_killed_after_joining_gives_the_same_bytes(
    prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    """A kill between the joined file and the manifest, when the scenes are already gone."""
    prepare(world_dataset, tmp_path, sync_runtime)
    (tmp_path / "records/manifest.json").unlink()
    prepare(world_dataset, tmp_path, sync_runtime)
    assert files_below(tmp_path / "records") == files_below(prepared / "records")


def test_killed_while_drafting_gives_the_same_bytes(
    prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "records.new/units").mkdir(parents=True)
    (tmp_path / "records.new/drafts").mkdir()
    (tmp_path / "records.new/drafts/synth-0000.jsonl").write_text("half a li")
    prepare(world_dataset, tmp_path, sync_runtime)
    assert files_below(tmp_path / "records") == files_below(prepared / "records")


def test_categories_of_the_entry_win(world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    dataset = world_dataset.model_copy(update={"categories": {"vehicle.car": "truck"}})
    prepare(dataset, tmp_path, sync_runtime)
    boxes = [
        box for record in read_records(tmp_path / "records", read_index(tmp_path / "records")) for box in record.boxes
    ]
    assert {box.label for box in boxes if box.category == "vehicle.car"} == {10}


def test_real_records(real_records: list[SampleRecord]) -> None:
    assert len(real_records) == 42
    assert sum(len(record.boxes) for record in real_records) == 2493
    # scene-0061 sorts first; of scene-0916's 41 keyframes 0, 5, ..., 35 are the eight of `train`
    assert real_records[0].splits == ("val",)
    assert [record.frame for record in real_records if "train" in record.splits] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert sum(not record.splits for record in real_records) == 33


def test_real_lidar_points_project_as_the_devkit_says(
    real_dataset: DatasetSpec, real_records: list[SampleRecord]
) -> None:
    """All 42 x 6 images: our matrices against the devkit's chain of rotations, at most 0.1 px apart."""
    from nuscenes.utils.data_classes import LidarPointCloud

    arrays = open_store(real_dataset.work / "geometry.zarr", "geometry")
    worst_px, num_compared = 0.0, 0
    for row, record in enumerate(real_records):
        points_lidar = LidarPointCloud.from_file(str(real_dataset.root / record.lidar.path)).points[:3].T
        points_ego = transform_points(record.lidar.ego_from_lidar.matrix, points_lidar.astype(np.float64))
        intrinsics, poses = arrays["image_from_camera"][row], arrays["camera_from_ego"][row]
        for view, channel in enumerate(real_dataset.cameras):
            expected_px, depth_m = devkit_projection(record, channel, points_lidar)
            uv_px, own_depth_m = project_points(intrinsics[view], transform_points(poses[view], points_ego))
            expected_px = expected_px * 0.5 - (0, 18)  # 1600x900 -> 800x450, then 18 rows cropped at the top
            is_seen = (depth_m > 1) & np.all((expected_px > 0) & (expected_px < (800, 432)), axis=1)
            worst_px = max(worst_px, float(np.abs(uv_px - expected_px)[is_seen].max()))
            num_compared += int(is_seen.sum())
            np.testing.assert_allclose(own_depth_m[is_seen], depth_m[is_seen], atol=1e-3)
    assert worst_px < 0.1
    assert num_compared > 42 * 6 * 100


def devkit_projection(
    record: SampleRecord, channel: str, points_lidar: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Pixels of the file's image and depth, by the devkit's classes: lidar -> ego -> global -> camera ego -> camera."""
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import view_points
    from pyquaternion import Quaternion

    cloud = LidarPointCloud(np.concatenate([points_lidar, np.zeros((len(points_lidar), 1))], axis=1).T)
    camera = record.cameras[channel]
    for pose in (record.lidar.ego_from_lidar, record.lidar.global_from_ego):
        cloud.rotate(Quaternion(pose.rotation_wxyz).rotation_matrix)
        cloud.translate(np.array(pose.translation_m))
    for pose in (camera.global_from_ego, camera.ego_from_camera):
        cloud.translate(-np.array(pose.translation_m))
        cloud.rotate(Quaternion(pose.rotation_wxyz).rotation_matrix.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = view_points(cloud.points[:3], np.array(camera.intrinsics), normalize=True)
    return pixels[:2].T, cloud.points[2]
