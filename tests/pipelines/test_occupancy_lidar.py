"""Labels from LiDAR: a hand-made street with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.occupancy import LidarConfig
from pipelines.occupancy.accumulation import Rays, SweepGroup
from pipelines.occupancy.scene import label_scene, read_scene
from pipelines.occupancy.votes import elect, gather_points
from pipelines.points import class_of_index
from schemas.classes import NUSCENES_CATEGORIES, OCC3D, ClassTable
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError
from schemas.geometry import VoxelGrid
from schemas.images import ImageSpec
from schemas.records import (
    BoxRecord,
    CameraRecord,
    LidarRecord,
    MapWindow,
    RigidPose,
    SampleRecord,
)

GRID = VoxelGrid(minimum_m=(-10.0, -10.0, -1.0), voxel_size_m=0.4, shape=(100, 50, 8))
HALF_SECOND_US = 500_000
STILL = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(0.0, 0.0, 0.0))
SENSOR = np.array([1.0, 0.0, 1.8])
CAR_SIZE = (4.0, 2.0, 1.5)
CAR_SPEED_MPS = 8.0
ROAD, MANMADE, CAR = 11, 15, 4
INDEX_OF_CLASS = {ROAD: 24, MANMADE: 28, CAR: 17}


def car_x(time_us: int) -> float:
    return 4.0 + CAR_SPEED_MPS * time_us / 1e6


def street(time_us: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in the LiDAR frame and their classes: road around, a wall at x = 26.1, a car that drives at y = 4."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-9, 25, 0.25), np.arange(-9, 9, 0.25), indexing="ij"))
    road = np.column_stack([x, y, np.zeros_like(x)])
    y, z = (axis.ravel() for axis in np.meshgrid(np.arange(-3, 9, 0.2), np.arange(0.3, 2.1, 0.2), indexing="ij"))
    wall = np.column_stack([np.full_like(y, 26.1), y, z])
    y, z = (axis.ravel() for axis in np.meshgrid(np.arange(3.1, 5.0, 0.2), np.arange(0.3, 1.4, 0.2), indexing="ij"))
    car = np.column_stack([np.full_like(y, car_x(time_us) - 1.9), y, z])
    points = np.concatenate([road, wall, car])
    classes = np.repeat([ROAD, MANMADE, CAR], [len(road), len(wall), len(car)])
    return points - SENSOR, classes


def write_sweep(root: Path, time_us: int, *, labelled: bool) -> LidarRecord:
    points, classes = street(time_us)
    path = f"sweep-{time_us}.bin"
    five = np.zeros((len(points), 5), "<f4")
    five[:, :3] = points
    (root / path).write_bytes(five.tobytes())
    labels_path = f"labels-{time_us}.bin" if labelled else None
    if labels_path:
        indices = np.vectorize(INDEX_OF_CLASS.__getitem__)(classes).astype(np.uint8)
        (root / labels_path).write_bytes(indices.tobytes())
    mount = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(1.0, 0.0, 1.8))
    return LidarRecord(
        token=f"lidar-{time_us}", path=path, timestamp_us=time_us, ego_from_lidar=mount, global_from_ego=STILL,
        labels_path=labels_path,
    )  # fmt: skip


def keyframe(root: Path, frame: int, *, labelled: bool) -> SampleRecord:
    time_us = frame * HALF_SECOND_US
    box = BoxRecord(
        token=f"box-{frame}", instance="car", category="vehicle.car", label=CAR, size_lwh_m=CAR_SIZE, num_lidar_pts=60,
        global_from_box=RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(car_x(time_us), 4.0, 0.75)),
    )  # fmt: skip
    camera = CameraRecord(
        token="camera", path="none.jpg", timestamp_us=time_us, width=160, height=90, global_from_ego=STILL,
        intrinsics=((120.0, 0.0, 80.0), (0.0, 120.0, 45.0), (0.0, 0.0, 1.0)),
        ego_from_camera=RigidPose(rotation_wxyz=(0.5, -0.5, 0.5, -0.5), translation_m=(1.5, 0.0, 1.5)),
    )  # fmt: skip
    between = range(time_us - HALF_SECOND_US + 100_000, time_us, 100_000) if frame else ()
    return SampleRecord(
        token=f"token-{frame}", scene="street", frame=frame, timestamp_us=time_us, previous=None, next=None,
        cameras={"CAM_FRONT": camera}, global_from_vehicle=STILL, boxes=(box,),
        lidar=write_sweep(root, time_us, labelled=labelled),
        sweeps=tuple(write_sweep(root, time, labelled=False) for time in between), map_window=None, splits=("train",),
    )  # fmt: skip


def dataset_at(root: Path, table: ClassTable = OCC3D) -> DatasetSpec:
    folder = root / "v1"
    folder.mkdir(exist_ok=True)
    rows = [{"name": name, "index": index} for index, name in enumerate(NUSCENES_CATEGORIES)]
    (folder / "category.json").write_text(json.dumps(rows[::-1]))  # the row order must not matter
    return DatasetSpec(
        name="street", format="nuscenes", root=root, version="v1", work=root / "work", cameras=("CAM_FRONT",),
        image=ImageSpec(resize=(160, 90), crop=(0, 0, 160, 90)), grid=GRID, splits={"train": SplitSpec(scenes=("s",))},
        classes=table,
    )  # fmt: skip


def label(
    root: Path, *, labelled: bool = True, frame: int = 1, table: ClassTable = OCC3D, **settings: float
) -> dict[str, np.ndarray]:
    records = [keyframe(root, number, labelled=labelled) for number in range(3)]
    accumulated = read_scene(dataset_at(root, table), LidarConfig(**settings), records, root, drop_broken=False)
    ((_, labels, _),) = label_scene(accumulated, records, [frame])
    return dict(labels)


def voxel(x: float, y: float, z: float) -> tuple[int, ...]:
    return tuple(GRID.voxel_index(np.array([[x, y, z]]))[0].tolist())


def test_street_has_the_classes_of_its_points(tmp_path: Path) -> None:
    labels = label(tmp_path)
    semantics = labels["semantics"]
    assert semantics[voxel(12.0, -2.0, 0.0)] == ROAD
    assert semantics[voxel(26.1, 0.0, 1.0)] == MANMADE
    rear = car_x(HALF_SECOND_US) - 1.9
    assert semantics[voxel(rear, 4.0, 0.9)] == CAR
    assert set(np.unique(semantics)) == {ROAD, MANMADE, CAR, 17}
    assert {array.dtype for array in labels.values()} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_moving_car_leaves_no_trail(tmp_path: Path, labelled: bool) -> None:
    semantics = label(tmp_path, labelled=labelled)["semantics"]
    x, y, z = np.argwhere((semantics != 17) & (semantics != ROAD) & (semantics != MANMADE)).T
    above_road = z >= 3  # the voxel that starts at 0.2 m
    centre = GRID.minimum_m[0] + (x[above_road] + 0.5) * 0.4
    on_wall = np.abs(centre - 26.1) < 0.4
    middle = car_x(HALF_SECOND_US)
    assert above_road.any()
    assert np.abs(centre[~on_wall] - middle).max() <= CAR_SIZE[0] / 2 + 0.2


def test_rays_free_what_they_pass_and_nothing_behind(tmp_path: Path) -> None:
    labels = label(tmp_path)
    semantics, seen = labels["semantics"], labels["mask_lidar"]
    assert semantics[voxel(5.0, 0.0, 1.0)] == 17 and seen[voxel(5.0, 0.0, 1.0)] == 1
    assert seen[voxel(26.1, 0.0, 1.0)] == 1
    assert semantics[voxel(28.0, 0.0, 1.0)] == 17 and seen[voxel(28.0, 0.0, 1.0)] == 0  # behind the wall
    assert seen[voxel(5.0, 0.0, -0.8)] == 0  # below the road


def test_cameras_see_within_their_image_up_to_the_first_hit(tmp_path: Path) -> None:
    labels = label(tmp_path)
    seen = labels["mask_camera"]
    assert (seen <= labels["mask_lidar"]).all()
    assert seen[voxel(10.0, 0.0, 1.4)] == 1
    assert seen[voxel(26.1, 0.0, 1.4)] == 1
    assert seen[voxel(10.0, 8.5, 1.0)] == 0  # u = 80 - 120 * 8.5 / 8.5 < 0
    # the ray from (1, 1.8) to (-9, 0) is 1.8 * (1 - 6 / 10) = 0.72 m high at x = -5, behind the camera
    assert labels["mask_lidar"][voxel(-5.0, 0.0, 0.7)] == 1
    assert not seen[: voxel(1.0, 0.0, 0.0)[0]].any()


@pytest.mark.parametrize("mirror", [True, False])
def test_vehicles_have_two_equal_sides(tmp_path: Path, mirror: bool) -> None:
    record = keyframe(tmp_path, 1, labelled=True)
    left = np.array([[-1.5, 0.9, 0.1]] * 3, np.float32)
    none = np.zeros(0, np.int64)
    rays = Rays(np.zeros((1, 3)), none, np.zeros((0, 3), np.float32), none.astype(np.int32), none)
    static = np.zeros((1, 3), np.float32)
    group = SweepGroup(static, np.ones(1, np.int32), np.array([ROAD], np.uint8), rays, {}, np.zeros(3), static[:0])
    points = gather_points(dataset_at(tmp_path), record, [group], {"car": left}, GRID.voxel_from_metres, mirror=mirror)
    x = car_x(HALF_SECOND_US) - 1.5
    seen, other = voxel(x, 4.9, 0.85), voxel(x, 3.1, 0.85)
    assert points.moved_votes[(*seen, CAR)] == points.counts[seen] == 3
    assert points.moved_votes[(*other, CAR)] == points.mirrored[other] == (3 if mirror else 0)
    assert points.counts[other] == 0, "nobody measured it"
    no_ground = np.zeros((*GRID.shape, 4), np.int32)
    semantics = elect(points, no_ground, (points.counts > 0) | (points.mirrored > 0), OCC3D, 4)
    assert semantics[seen] == CAR and semantics[other] == (CAR if mirror else 17)


def test_cars_hide_what_is_in_them(tmp_path: Path) -> None:
    seen = label(tmp_path, frame=2)["mask_camera"]
    rear = car_x(2 * HALF_SECOND_US) - 1.9  # 10.1 m: u = 80 - 120 * 4 / 8.6 = 24
    assert seen[voxel(rear, 4.0, 0.9)] == 1
    assert seen[voxel(rear + 1.6, 4.0, 0.9)] == 0  # hidden by the car's rear


def test_without_point_labels_or_map_only_boxes_have_a_class(tmp_path: Path) -> None:
    semantics = label(tmp_path, labelled=False)["semantics"]
    assert set(np.unique(semantics)) == {CAR, 17, 255}
    assert semantics[voxel(12.0, -2.0, 0.0)] == 255
    assert semantics[voxel(26.1, 0.0, 1.0)] == 255


BARE = OCC3D.model_copy(update={"ground": (), "driveable": None, "stuff": (), "symmetric": ()})
"""A table that does not say which classes are ground, stuff or symmetric."""


def test_a_table_without_ground_labels_points_and_nothing_between(tmp_path: Path) -> None:
    full, bare = label(tmp_path), label(tmp_path, table=BARE)
    seen = voxel(12.0, -2.0, 0.0)
    assert full["semantics"][seen] == bare["semantics"][seen] == ROAD
    unseen = voxel(-9.8, -9.8, 0.0)  # 0.8 m from the last points of the road, which the ground's surface covers
    assert (full["semantics"][unseen], bare["semantics"][unseen]) == (ROAD, OCC3D.free)
    rear = voxel(car_x(HALF_SECOND_US) - 1.9, 4.0, 0.9)
    assert full["semantics"][rear] == bare["semantics"][rear] == CAR


def test_a_table_without_ground_names_nothing_by_the_map(tmp_path: Path) -> None:
    Image.fromarray(np.full((800, 800), 255, np.uint8)).save(tmp_path / "map.png")
    window = MapWindow(path="map.png", corner_m=(-40.0, -40.0), pixel_m=0.1)
    records = [keyframe(tmp_path, number, labelled=False) for number in range(2)]
    records = [record.model_copy(update={"map_window": window}) for record in records]
    found = {}
    for name, table in (("full", OCC3D), ("bare", BARE)):
        accumulated = read_scene(dataset_at(tmp_path, table), LidarConfig(), records, tmp_path, drop_broken=False)
        ((_, labels, _),) = label_scene(accumulated, records, [1])
        found[name] = set(np.unique(labels["semantics"]).tolist())
    assert found == {"full": {CAR, ROAD, 17, 255}, "bare": {CAR, 17, 255}}


def test_thresholds_forget_and_ignore(tmp_path: Path) -> None:
    all_of_it = label(tmp_path)
    assert not (label(tmp_path, occupied_above=10_000, fill_surfaces=False)["semantics"] == CAR).any()
    none_free = label(tmp_path, free_above=1_000_000)["mask_lidar"] == 1
    assert not (none_free & (all_of_it["semantics"] == 17)).any()
    ignoring = label(tmp_path, ignore_above_road_m=1.0, ignore_ends_m=1.0)
    low = voxel(12.0, -2.0, 0.4)
    assert all_of_it["mask_lidar"][low] == 1 and ignoring["mask_lidar"][low] == 0


def damage_cut(root: Path) -> str:
    path = root / "sweep-500000.bin"
    path.write_bytes(path.read_bytes()[:-7])
    return "multiple of 20"


def damage_nan(root: Path) -> str:
    path = root / "sweep-300000.bin"
    points = np.frombuffer(path.read_bytes(), "<f4").reshape(-1, 5).copy()
    points[7, 1] = np.nan
    path.write_bytes(points.tobytes())
    return "point 7 has a NaN"


def damage_length(root: Path) -> str:
    path = root / "labels-500000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    return "labels for"


def damage_index(root: Path) -> str:
    path = root / "labels-500000.bin"
    path.write_bytes(b"\xc8" + path.read_bytes()[1:])
    return "label 200 is the index of no row"


@pytest.mark.parametrize("damage", [damage_cut, damage_length, damage_index])
def test_broken_files_are_named_or_dropped(tmp_path: Path, damage: object) -> None:
    records = [keyframe(tmp_path, number, labelled=True) for number in range(3)]
    dataset = dataset_at(tmp_path)
    assert callable(damage)
    message = damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_scene(dataset, LidarConfig(), records, tmp_path, drop_broken=False)
    assert "token-1" in str(caught.value) and ".bin" in str(caught.value)
    accumulated = read_scene(dataset, LidarConfig(), records, tmp_path, drop_broken=True)
    assert list(accumulated.broken) == ["token-1"]
    assert [index for index, _, _ in label_scene(accumulated, records, [0, 1, 2])] == [0, 2]


def test_a_broken_sweep_costs_no_keyframe(tmp_path: Path) -> None:
    records = [keyframe(tmp_path, number, labelled=True) for number in range(3)]
    message = damage_nan(tmp_path)
    with pytest.raises(DataError, match=message):
        read_scene(dataset_at(tmp_path), LidarConfig(), records, tmp_path, drop_broken=False)
    accumulated = read_scene(dataset_at(tmp_path), LidarConfig(), records, tmp_path, drop_broken=True)
    assert accumulated.broken == {} and [group.num_missing for group in accumulated.groups.values()] == [0, 1, 0]


def test_categories_with_a_byte_order_mark_are_those_without(tmp_path: Path) -> None:
    dataset = dataset_at(tmp_path)
    expected, path = class_of_index(dataset), tmp_path / "v1" / "category.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert np.array_equal(class_of_index(dataset), expected)


def test_categories_without_index_and_boxes_without_size(tmp_path: Path) -> None:
    records = [keyframe(tmp_path, 0, labelled=True)]
    dataset = dataset_at(tmp_path)
    (tmp_path / "v1" / "category.json").write_text('[{"name": "vehicle.car"}]')
    with pytest.raises(DataError, match="category.json: 'index' is missing"):
        read_scene(dataset, LidarConfig(), records, tmp_path, drop_broken=False)
    flat = records[0].boxes[0].model_copy(update={"size_lwh_m": (4.0, -2.0, 1.5)})
    with pytest.raises(DataError, match=r"box-0 \(sample token-0\): size"):
        read_scene(
            dataset, LidarConfig(), [records[0].model_copy(update={"boxes": (flat,)})], tmp_path, drop_broken=False
        )


def test_categories_that_the_table_has_no_class_for(tmp_path: Path) -> None:
    table = OCC3D.model_copy(update={"names": ("nobody", *OCC3D.names[1:])})
    dataset = dataset_at(tmp_path, table)
    with pytest.raises(DataError, match="category 'static.other' has no class in the table of 'street'.*`categories`"):
        read_scene(dataset, LidarConfig(), [keyframe(tmp_path, 0, labelled=True)], tmp_path, drop_broken=False)
