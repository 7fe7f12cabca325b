import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box

from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.synth import SynthConfig, SynthSummary, generate_world
from schemas.classes import NUSCENES_CATEGORIES, OCC3D
from schemas.errors import ConfigError, DataError
from schemas.geometry import OCC3D_GRID, Pose, invert_rigid, project_points, rigid_transform, transform_points
from schemas.lock import folder_lock
from tests.folders import hashes_below

CONFIG = SynthConfig(scenes=1, keyframes=2, seed=3, image_width=160, sweeps_per_keyframe=2)
SYNC = Runtime(Scheduler("sync"))
LABEL = OCC3D.labels_of(tuple(NUSCENES_CATEGORIES.values()))
REAL_TABLES = Path(__file__).parents[2] / "../shared/data/nuscenes/v1.0-mini"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SynthSummary:
    """One scene, two keyframes, tiny images."""
    return generate_world(tmp_path_factory.mktemp("synth") / "world", CONFIG, SYNC)


@pytest.fixture(scope="module")
def nusc(world: SynthSummary) -> NuScenes:
    """The devkit's view of it."""
    return NuScenes(world.version, str(world.root), verbose=False)


def labels_of(nusc: NuScenes, sample: dict) -> dict[str, np.ndarray]:
    scene = nusc.get("scene", sample["scene_token"])["name"]
    with np.load(Path(nusc.dataroot) / "gts" / scene / sample["token"] / "labels.npz", allow_pickle=False) as file:
        return dict(file)


def global_from_sensor(nusc: NuScenes, sample_data: dict) -> tuple[Pose, Pose]:
    ego = nusc.get("ego_pose", sample_data["ego_pose_token"])
    mount = nusc.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    ego_from_sensor = rigid_transform(mount["rotation"], mount["translation"])
    return rigid_transform(ego["rotation"], ego["translation"]) @ ego_from_sensor, ego_from_sensor


def cloud_of(nusc: NuScenes, sample: dict) -> tuple[np.ndarray, np.ndarray, dict]:
    row = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    points = np.fromfile(nusc.get_sample_data_path(row["token"]), np.float32).reshape(-1, 5)
    path = Path(nusc.dataroot) / nusc.get("lidarseg", row["token"])["filename"]
    return points, LABEL[np.fromfile(path, np.uint8)], row


def test_counts_of_rows_and_links(nusc: NuScenes) -> None:
    assert (len(nusc.scene), len(nusc.sample), len(nusc.sensor), len(nusc.category)) == (1, 2, 7, 32)
    # 2 keyframes x (6 images + 1 cloud) + 2 sweeps between them
    assert len(nusc.sample_data) == len(nusc.ego_pose) == 16
    first = nusc.get("sample_data", nusc.sample[0]["data"]["LIDAR_TOP"])
    last = nusc.get("sample_data", nusc.sample[1]["data"]["LIDAR_TOP"])
    times, row = [first["timestamp"]], first
    while row["next"]:
        row = nusc.get("sample_data", row["next"])
        times.append(row["timestamp"])
    assert row["token"] == last["token"] and first["prev"] == ""
    # 500 ms in 3 equal steps of 166,666 us, counted back from the second keyframe
    assert np.diff(times).tolist() == [166_668, 166_666, 166_666]
    assert nusc.sample[0]["next"] == nusc.sample[1]["token"]
    assert all(nusc.get("sample_data", row["next"])["prev"] == row["token"] for row in nusc.sample_data if row["next"])


def test_tracks_are_linked_in_time(nusc: NuScenes) -> None:
    for instance in nusc.instance:
        row = nusc.get("sample_annotation", instance["first_annotation_token"])
        count = 1
        while row["next"]:
            row = nusc.get("sample_annotation", row["next"])
            assert row["instance_token"] == instance["token"]
            count += 1
        assert (count, row["token"]) == (instance["nbr_annotations"], instance["last_annotation_token"])


def test_devkit_counts_the_same_points_in_every_box(nusc: NuScenes) -> None:
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"], box_vis_level=BoxVisibility.NONE)
        points = LidarPointCloud.from_file(path).points[:3]
        counted = [int(points_in_box(box, points).sum()) for box in boxes]
        stored = [nusc.get("sample_annotation", box.token)["num_lidar_pts"] for box in boxes]
        assert counted == stored
        assert sum(stored) > 1000


def test_devkit_aggregates_sweeps_and_reads_the_map(nusc: NuScenes) -> None:
    cloud, times = LidarPointCloud.from_file_multisweep(nusc, nusc.sample[1], "LIDAR_TOP", "LIDAR_TOP", nsweeps=4)
    assert sorted(set(np.round(times[0], 3))) == [0.0, 0.167, 0.333, 0.5]
    assert cloud.points.shape[1] > 50_000
    mask = nusc.map[0]["mask"]
    for pose in nusc.ego_pose:
        x, y, _ = pose["translation"]
        assert mask.is_on_mask(x, y).all()
    assert not mask.is_on_mask(1.0, 1.0).any()


def test_points_on_a_thing_lie_in_its_box(nusc: NuScenes) -> None:
    sample = nusc.sample[0]
    points, labels, row = cloud_of(nusc, sample)
    _, boxes, _ = nusc.get_sample_data(row["token"], box_vis_level=BoxVisibility.NONE)
    is_boxed = np.any([points_in_box(box, points[:, :3].T) for box in boxes], axis=0)
    is_thing = ~np.isin(labels, OCC3D.labels_of(OCC3D.stuff))
    assert is_boxed[is_thing].mean() > 0.99
    # boxes stand on the road, so range noise lifts some points of the road under a vehicle into its box
    assert is_boxed[~is_thing].mean() < 0.05


def test_occupancy_agrees_with_lidar_points(nusc: NuScenes) -> None:
    for sample in nusc.sample:
        points, labels, row = cloud_of(nusc, sample)
        _, ego_from_lidar = global_from_sensor(nusc, row)
        index = OCC3D_GRID.voxel_index(transform_points(ego_from_lidar, points[:, :3].astype(np.float64)))
        inside = OCC3D_GRID.contains(index)
        truth = labels_of(nusc, sample)
        cells = tuple(index[inside].T)
        assert (truth["semantics"][cells] == labels[inside]).mean() > 0.97
        assert OCC3D.is_occupied(truth["semantics"][cells]).mean() > 0.99
        assert (truth["mask_lidar"][cells] == 1).mean() > 0.99


def test_label_file_has_the_shape_of_occ3d(nusc: NuScenes) -> None:
    truth = labels_of(nusc, nusc.sample[0])
    assert list(truth) == ["semantics", "mask_lidar", "mask_camera"]
    assert all(array.shape == (200, 200, 16) and array.dtype == np.uint8 for array in truth.values())
    assert truth["semantics"].max() == OCC3D.free
    assert np.all(truth["mask_camera"] <= truth["mask_lidar"]) and truth["mask_lidar"].max() == 1
    is_occupied = OCC3D.is_occupied(truth["semantics"])
    assert 20_000 < truth["mask_camera"].sum() < 150_000
    assert (is_occupied & (truth["mask_camera"] == 1)).sum() > 8_000
    # the road under the vehicle: height 0 lies in layer 2, [-0.2, 0.2)
    assert OCC3D.names[truth["semantics"][100, 100, 2]] == "driveable_surface"
    assert np.all(truth["semantics"][100, 100, 3:8] == OCC3D.free)


def test_world_shows_most_classes(world: SynthSummary) -> None:
    assert len(world.voxels) >= 15
    rare = {"barrier", "bicycle", "motorcycle", "pedestrian", "traffic_cone", "truck", "other_flat"}
    assert rare <= set(world.voxels)


def test_pixels_agree_with_projected_lidar_points(nusc: NuScenes) -> None:
    sample = nusc.sample[0]
    points, labels, row = cloud_of(nusc, sample)
    global_from_lidar, _ = global_from_sensor(nusc, row)
    points_global = transform_points(global_from_lidar, points[:, :3].astype(np.float64))
    for channel in (name for name in sample["data"] if name.startswith("CAM")):
        camera = nusc.get("sample_data", sample["data"][channel])
        global_from_camera, _ = global_from_sensor(nusc, camera)
        intrinsics = np.array(nusc.get("calibrated_sensor", camera["calibrated_sensor_token"])["camera_intrinsic"])
        uv, depth = project_points(intrinsics, transform_points(invert_rigid(global_from_camera), points_global))
        seen = (depth > 1.0) & np.all((uv >= 0) & (uv < (160, 90)), axis=1)
        path = Path(nusc.dataroot) / "truth" / "synth-0000" / sample["token"] / f"{channel}.png"
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert truth.shape == (90, 160) and truth.dtype == np.uint16
        u, v = uv[seen].astype(int).T
        # the LiDAR stands elsewhere and fires at another time, so edges differ
        assert (truth[v, u] // 2048 == labels[seen]).mean() > 0.7, channel
        image = cv2.imread(nusc.get_sample_data_path(camera["token"]))
        assert image.shape == (90, 160, 3) and image.std() > 10


def test_pixel_numbers_name_annotated_things(nusc: NuScenes) -> None:
    folder = Path(nusc.dataroot) / "truth" / "synth-0000"
    things = json.loads((folder / "things.json").read_text())
    for path in sorted((folder / nusc.sample[0]["token"]).glob("*.png")):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for value in np.unique(truth):
            label, number = divmod(int(value), 2048)
            if number == 0:
                assert OCC3D.names[label] in (*OCC3D.ground, "free")
                continue
            thing = things[str(number)]
            assert NUSCENES_CATEGORIES[thing["category"]] == OCC3D.names[label]
            assert (thing["instance_token"] is None) == thing["category"].startswith("static.")


@pytest.mark.skipif(not REAL_TABLES.is_dir(), reason="the real nuScenes tables are not beside the repository")
def test_rows_have_the_keys_and_types_of_real_ones(world: SynthSummary) -> None:
    for path in sorted(REAL_TABLES.glob("*.json")):
        real = json.loads(path.read_text())[0]
        made = json.loads((world.root / world.version / path.name).read_text())[0]
        assert set(made) == set(real), path.name
        assert {key: type(made[key]) for key in made} == {key: type(real[key]) for key in real}, path.name


def test_same_bytes_with_two_workers_and_after_an_interruption(world: SynthSummary, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    out = tmp_path / "world"
    with pytest.raises(KeyboardInterrupt):
        generate_world(out, CONFIG, replace(SYNC, on_progress=stop))
    assert not out.exists()
    seen: list[tuple[int, int]] = []
    runtime = Runtime(Scheduler(workers=2), on_progress=lambda done, total: seen.append((done, total)))
    summary = generate_world(out, CONFIG, runtime)
    assert seen == [(1, 2), (2, 2)] and not summary.is_skipped
    assert hashes_below(out) == hashes_below(world.root)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.slow
def test_workers_do_not_change_the_bytes(world: SynthSummary, tmp_path: Path) -> None:
    summary = generate_world(tmp_path / "world", CONFIG, Runtime(Scheduler(workers=2)))
    assert hashes_below(summary.root) == hashes_below(world.root)


def test_world_killed_before_its_last_rename_is_put_in_place(world: SynthSummary, tmp_path: Path) -> None:
    """Its reports were removed already, so it looked like a foreign folder in the way."""
    shutil.copytree(world.root, tmp_path / "world.partial")
    generate_world(tmp_path / "world", CONFIG, SYNC)
    assert hashes_below(tmp_path / "world") == hashes_below(world.root)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_second_driver_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "world"), pytest.raises(ConfigError, match=rf"written by process {os.getpid()} on "):
        generate_world(tmp_path / "world", CONFIG, SYNC)


def test_finished_world_is_kept(world: SynthSummary) -> None:
    again = generate_world(world.root, CONFIG)
    assert again.is_skipped and again.num_bytes == world.num_bytes and again.seconds < 1.0


def test_other_configuration_is_refused_by_field(world: SynthSummary) -> None:
    with pytest.raises(DataError, match="seed is 3, asked for 4"):
        generate_world(world.root, CONFIG.model_copy(update={"seed": 4}))


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="not a generated world"):
        generate_world(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "synth.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        generate_world(tmp_path, CONFIG)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="keyframes"):
        SynthConfig(keyframes=0)
    with pytest.raises(ValueError, match="weather"):
        SynthConfig.model_validate({"weather": "rain"})
    assert SynthConfig(image_width=1600).image_size == (1600, 900)
