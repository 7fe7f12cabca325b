"""Other rigs: the generated world with its tables edited into more, fewer, other and no sensors."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.bench_occupancy import bench_occupancy
from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import ImportConfig, LidarConfig, Occ3dConfig, make_occupancy
from pipelines.occupancy.check import check_labels
from pipelines.pack import PackConfig, pack
from pipelines.points import read_points
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.images import ImageSpec
from schemas.records import RECORDS_FILE, SampleRecord, read_index, read_records
from tests.pipelines.world_edits import TABLES, Rows, edit_table, link_tree, replace_file


@pytest.fixture
def copy(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """The tiny world with tables that may be edited."""
    root = link_tree(world_dataset.root, tmp_path / "copy")
    return world_dataset.model_copy(update={"root": root, "work": tmp_path / "work"})


def rows_of(dataset: DatasetSpec, table: str) -> Rows:
    rows: Rows = json.loads((dataset.root / TABLES / f"{table}.json").read_text())
    return rows


def edit(dataset: DatasetSpec, table: str, change: Callable[[Rows], object]) -> None:
    edit_table(dataset.root / TABLES / f"{table}.json", change)


def records_of(work: Path) -> list[SampleRecord]:
    return read_records(work / "records", read_index(work / "records"))


def change_entry(dataset: DatasetSpec, **fields: Any) -> DatasetSpec:
    """The entry with other fields, validated as from `datasets.yaml`."""
    return DatasetSpec.model_validate({**dataset.model_dump(), **fields})


def files_of(dataset: DatasetSpec, channel: str) -> list[str]:
    """Tokens of the rows of `sample_data` that one sensor made."""
    (sensor,) = [row["token"] for row in rows_of(dataset, "sensor") if row["channel"] == channel]
    mounts = {row["token"] for row in rows_of(dataset, "calibrated_sensor") if row["sensor_token"] == sensor}
    return [row["token"] for row in rows_of(dataset, "sample_data") if row["calibrated_sensor_token"] in mounts]


def add_camera(dataset: DatasetSpec, like: str, channel: str) -> None:
    """Another camera with the mounting, times and files of one that is there."""
    (sensor,) = [row["token"] for row in rows_of(dataset, "sensor") if row["channel"] == like]
    mounts = {row["token"] for row in rows_of(dataset, "calibrated_sensor") if row["sensor_token"] == sensor}
    files = set(files_of(dataset, like))
    edit(dataset, "sensor", lambda rows: rows.append({"token": channel, "channel": channel, "modality": "camera"}))
    edit(
        dataset,
        "calibrated_sensor",
        lambda rows: rows.extend(
            [
                {**row, "token": channel + row["token"], "sensor_token": channel}
                for row in rows
                if row["token"] in mounts
            ]
        ),
    )
    edit(
        dataset,
        "sample_data",
        lambda rows: rows.extend(
            [
                {**row, "token": channel + row["token"], "prev": "", "next": ""}
                | {"calibrated_sensor_token": channel + row["calibrated_sensor_token"]}
                for row in rows
                if row["token"] in files
            ]
        ),
    )


def test_eight_cameras(copy: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    add_camera(copy, "CAM_FRONT", "front_narrow")
    add_camera(copy, "CAM_BACK", "rear-fisheye")
    cameras = ("rear-fisheye", *copy.cameras, "front_narrow")
    prepare(change_entry(copy, cameras=cameras), copy.work, sync_runtime)
    assert all(tuple(record.cameras) == cameras for record in records_of(copy.work))
    ours, six = (open_store(work / "geometry.zarr", "geometry") for work in (copy.work, prepared))
    for name in ("camera_from_ego", "image_from_camera"):
        assert ours[name].shape[:2] == (4, 8)
        np.testing.assert_array_equal(ours[name][:], six[name][:][:, [3, *range(6), 0]])


def test_two_cameras_through_all_stages(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    dataset = change_entry(copy, cameras=("CAM_BACK_LEFT", "CAM_FRONT"))
    index = pack_all(dataset, sync_runtime)
    members = index["samples"][0]["members"]
    assert [name for name in members if name.endswith(".jpg")] == ["cam_back_left.jpg", "cam_front.jpg"]
    assert open_store(dataset.work / "masks-seeds.zarr", "masks")["segment_id"].shape == (4, 2, 104, 200)


def pack_all(dataset: DatasetSpec, runtime: Runtime) -> dict[str, Any]:
    """Index of the first training shard after all stages."""
    prepare(dataset, dataset.work, runtime)
    make_occupancy(dataset, dataset.work, Occ3dConfig(), runtime)
    make_masks(dataset, dataset.work, SeedsConfig(), runtime)
    folder = pack(dataset, dataset.work, PackConfig(), runtime).folder
    index: dict[str, Any] = json.loads((folder / "train-00000.index.json").read_text())
    return index


def test_a_lidar_of_another_name(copy: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> None:
    """All that changes in the records is the name in the paths."""
    for folder in ("samples", "sweeps"):
        (copy.root / folder / "LIDAR_TOP").rename(copy.root / folder / "roof")
    edit(copy, "sensor", lambda rows: [row.update(channel="roof") for row in rows if row["channel"] == "LIDAR_TOP"])
    edit(
        copy,
        "sample_data",
        lambda rows: [row.update(filename=row["filename"].replace("/LIDAR_TOP/", "/roof/")) for row in rows],
    )
    dataset = change_entry(copy, lidar="roof")
    assert prepare(dataset, dataset.work, sync_runtime).counts["sweeps"] == 4
    renamed = (dataset.work / "records" / RECORDS_FILE).read_text().replace("/roof/", "/LIDAR_TOP/")
    assert renamed == (prepared / "records" / RECORDS_FILE).read_text()


def test_a_lidar_that_is_not_there_names_the_field(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    dataset = change_entry(copy, lidar="roof")
    with pytest.raises(Exception, match=r"no keyframe of roof .*channels there: CAM_BACK.*LIDAR_TOP. Correct `lidar`"):
        prepare(dataset, dataset.work, sync_runtime)


def test_points_of_four_columns(copy: DatasetSpec, prepared: Path, world: Path, sync_runtime: Runtime) -> None:
    for path in [*(copy.root / "samples/LIDAR_TOP").iterdir(), *(copy.root / "sweeps/LIDAR_TOP").iterdir()]:
        replace_file(path, np.fromfile(path, "<f4").reshape(-1, 5)[:, :4].tobytes())
    dataset = change_entry(copy, point_columns=4)
    prepare(dataset, dataset.work, sync_runtime)
    ours, theirs = records_of(dataset.work)[0].keyframe_sweep, records_of(prepared)[0].keyframe_sweep
    assert (ours.point_columns, theirs.point_columns) == (4, 5)
    original = copy.model_copy(update={"root": world})
    np.testing.assert_array_equal(read_points(dataset, ours, "a"), read_points(original, theirs, "a"))
    with pytest.raises(DataError, match=r"bytes, expected a multiple of 28 \(7 float32 per point\)"):
        read_points(dataset, ours.model_copy(update={"point_columns": 7}), "a")


@pytest.fixture
def cameras_alone(copy: DatasetSpec) -> DatasetSpec:
    """A log without LiDAR: no rows and no files of it."""
    lidar = set(files_of(copy, "LIDAR_TOP"))
    for table in ("sample_data", "ego_pose"):
        rows = [row for row in rows_of(copy, table) if row["token"] not in lidar]
        replace_file(copy.root / TABLES / f"{table}.json", json.dumps(rows).encode())
    (copy.root / TABLES / "lidarseg.json").unlink()
    return change_entry(copy, lidar=None)


def test_cameras_alone_through_all_stages(
    cameras_alone: DatasetSpec, prepared: Path, packed: Path, sync_runtime: Runtime
) -> None:
    """The shard of the world with a LiDAR but its place: CAM_BACK_LEFT fires with it, so the ego frame is the same."""
    work = cameras_alone.work
    pack_all(cameras_alone, sync_runtime)
    records = records_of(work)
    for record, other in zip(records, records_of(prepared), strict=True):
        assert record.lidar is None and record.sweeps == ()
        assert record.global_from_vehicle == record.cameras["CAM_BACK_LEFT"].global_from_ego
        assert record.boxes == other.boxes
    ours, theirs = (open_store(folder / "geometry.zarr", "geometry") for folder in (work, prepared))
    for name in ours:
        np.testing.assert_array_equal(ours[name][:], theirs[name][:])
    assert members_of(work / "shards/train-00000.tar") == members_of(packed / "train-00000.tar", but="ego_from_lidar")


def members_of(shard: Path, but: str = "") -> dict[str, Any]:
    """What a shard holds by name; of meta.json the values, one of which must be there and is left out."""
    with tarfile.open(shard) as tar:
        found: dict[str, Any] = {member.name: tar.extractfile(member).read() for member in tar}
    for name in found:
        if name.endswith(".meta.json"):
            found[name] = json.loads(found[name])
            if but:
                del found[name][but]
    return found


def test_ego_frame_of_cameras_alone_is_that_of_the_nearest_image(
    cameras_alone: DatasetSpec, sync_runtime: Runtime
) -> None:
    dataset = change_entry(cameras_alone, cameras=("CAM_FRONT", "CAM_BACK", "CAM_FRONT_LEFT"))  # 35, 10 and 43 ms early
    summary = prepare(dataset, dataset.work, sync_runtime)
    assert summary.counts["without_lidar"] == summary.done == 4
    for record in records_of(dataset.work):
        assert record.global_from_vehicle == record.cameras["CAM_BACK"].global_from_ego


def test_cameras_alone_refuse_what_needs_a_lidar(
    cameras_alone: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    work = cameras_alone.work
    prepare(cameras_alone, work, sync_runtime)
    refusal = "needs a LiDAR, and 'tiny' in datasets.yaml has `lidar: null`"
    imported = ImportConfig(kind="surroundocc", labels=tmp_path)
    for config in (LidarConfig(), imported):
        with pytest.raises(ConfigError, match=f"--source {config.kind} {refusal}.*--source occ3d"):
            make_occupancy(cameras_alone, work, config, sync_runtime)
    with pytest.raises(ConfigError, match=f"--check {refusal}"):
        check_labels(cameras_alone, work, scheduler=Scheduler(kind="sync"))
    with pytest.raises(ConfigError, match=f"bench occupancy {refusal}"):
        bench_occupancy(cameras_alone, work, tmp_path / "bench", LidarConfig())
    with pytest.raises(DataError, match="has no LiDAR sweep"):
        records_of(work)[0].keyframe_sweep  # noqa: B018  the property raises


def test_cameras_alone_have_jumps_too(cameras_alone: DatasetSpec, sync_runtime: Runtime) -> None:
    victim = next(row for row in rows_of(cameras_alone, "sample_data") if "/CAM_FRONT/" in row["filename"])

    def move(rows: Rows) -> None:
        (row,) = [row for row in rows if row["token"] == victim["ego_pose_token"]]
        row["translation"][0] += 100.0

    edit(cameras_alone, "ego_pose", move)
    with pytest.raises(Exception, match=rf"ego_pose of {victim['filename']} jumps.*the limit is 60 m/s"):
        prepare(cameras_alone, cameras_alone.work, sync_runtime)


@pytest.fixture
def square_back(copy: DatasetSpec) -> DatasetSpec:
    """CAM_BACK makes images of 300x240 pixels, the others 400x225."""
    for path in (copy.root / "samples/CAM_BACK").iterdir():
        image = cv2.resize(cv2.imread(str(path)), (300, 240), interpolation=cv2.INTER_AREA)
        replace_file(path, cv2.imencode(".jpg", image)[1].tobytes())
    tokens = set(files_of(copy, "CAM_BACK"))
    edit(
        copy,
        "sample_data",
        lambda rows: [row.update(width=300, height=240) for row in rows if row["token"] in tokens],
    )
    return copy


def test_stretched_images_are_refused_with_a_line_that_works(square_back: DatasetSpec, sync_runtime: Runtime) -> None:
    """300x240 to 200x112: 200 / 300 against 112 / 240, a factor of 10 / 7."""
    # covering 200x112 takes 200x160; the crop (0, 8, 200, 104) moves down by 24
    line = r"camera_images: \{CAM_BACK: \{resize: \[200, 160\], crop: \[0, 32, 200, 104\]\}\}"
    message = rf"CAM_BACK.*jpg \(sample \w+\) is 300x240 pixels, .*'tiny'.* stretch it by 43 %.*{line}"
    for on_error in ("fail", "drop"):
        with pytest.raises(ConfigError, match=message):
            prepare(square_back, square_back.work, Runtime(scheduler=Scheduler(kind="sync"), on_error=on_error))
    image = ImageSpec(resize=(200, 160), crop=(0, 32, 200, 104))
    dataset = change_entry(square_back, camera_images={"CAM_BACK": image})
    index = pack_all(dataset, sync_runtime)
    assert index["samples"][0]["members"]["cam_back.jpg"][1] > 0
    camera = records_of(dataset.work)[0].cameras["CAM_BACK"]
    focal_px, middle_px = camera.intrinsics[0][0], camera.intrinsics[1][2]
    found = open_store(dataset.work / "geometry.zarr", "geometry")["image_from_camera"][0]
    view = dataset.cameras.index("CAM_BACK")
    assert np.isclose(found[view, 0, 0], focal_px * 2 / 3)
    assert np.isclose(found[view, 1, 2], middle_px * 2 / 3 - 32)


def test_images_of_their_own_size(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    """`resize: null`: files differ a little, the crop is the same; intrinsics only move."""
    dataset = change_entry(copy, image={"resize": None, "crop": (4, 9, 392, 208)})
    pack_all(dataset, sync_runtime)
    camera = records_of(dataset.work)[0].cameras["CAM_FRONT"]
    found = open_store(dataset.work / "geometry.zarr", "geometry")["image_from_camera"][0, 0]
    expected = np.array(camera.intrinsics) - [[0, 0, 4], [0, 0, 9], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert open_store(dataset.work / "masks-seeds.zarr", "masks")["segment_id"].shape == (4, 6, 208, 392)
    wide = change_entry(copy, image={"resize": None, "crop": (0, 0, 401, 208)}, work=copy.work / "wide")
    with pytest.raises(ConfigError, match=r"is 400x225 pixels, and the crop .*\(0, 0, 401, 208\).* leaves it"):
        prepare(wide, wide.work, sync_runtime)


def test_a_lidar_grid_needs_a_lidar(copy: DatasetSpec) -> None:
    with pytest.raises(ValueError, match="grid.frame: lidar needs a LiDAR"):
        change_entry(copy, lidar=None, grid={**copy.grid.model_dump(), "frame": "lidar"})
