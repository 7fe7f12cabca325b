"""Parts of the label maker, by hand: boxes in time, boxes and cells of points, ground, map, heights, comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.occupancy.accumulation import Rays, SweepGroup, majority_labels
from pipelines.occupancy.compare import compare_occupancy
from pipelines.occupancy.completion import ground_votes, sample_places
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.ground import fit_ground, read_map_mask
from pipelines.occupancy.height_drift import measure_height_drift
from pipelines.occupancy.kernels import IN_BOX, IN_MARGIN, OUTSIDE, add_votes, assign_boxes, cell_means, share_cells
from pipelines.occupancy.semantics import spread_labels
from pipelines.occupancy.surfaces import fill_surfaces
from pipelines.occupancy.tracks import Track, boxes_at
from pipelines.occupancy.trails import swept_voxels
from pipelines.occupancy.tuning import GroundFitConfig, HeightDriftConfig, SurfaceConfig
from pipelines.points import UNKNOWN, UNLABELLED
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.geometry import VoxelGrid
from schemas.records import BoxRecord, LidarRecord, MapWindow, RigidPose, SampleRecord


def turning_track() -> Track:
    """Two keyframes one second apart: 4 m forward, a quarter turn to the left."""
    half = np.sqrt(0.5)
    return Track(
        instance="car",
        label=4,
        size_lwh_m=(4.0, 2.0, 1.5),
        times_us=np.array([1_000_000, 2_000_000]),
        centers_m=np.array([[0.0, 0.0, 0.75], [4.0, 2.0, 0.75]]),
        rotations_xyzw=np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, half, half]]),
    )


def test_pose_between_keyframes() -> None:
    pose = turning_track().pose_at(1_250_000)
    assert np.allclose(pose[:3, 3], [1.0, 0.5, 0.75])  # a quarter of the way
    angle = np.pi / 8  # a quarter of 90 degrees
    assert np.allclose(pose[:2, 0], [np.cos(angle), np.sin(angle)])


def test_pose_beyond_the_track_keeps_its_speed_but_not_its_turn() -> None:
    pose = turning_track().pose_at(2_500_000)
    assert np.allclose(pose[:3, 3], [6.0, 3.0, 0.75])
    assert np.allclose(pose[:2, 0], [0.0, 1.0])


@pytest.mark.parametrize(("time_us", "certain"), [(999_999, [False]), (1_000_000, [True]), (2_500_001, [])])
def test_boxes_are_uncertain_beyond_their_track(time_us: int, certain: list[bool]) -> None:
    boxes = boxes_at([turning_track()], time_us, 500_000)
    assert boxes.is_certain.tolist() == certain
    assert boxes.half_size_m.tolist() == [[2.0, 1.0, 0.75]] * len(certain)


def test_points_in_boxes_and_their_margin() -> None:
    points = np.array([[0.0, 0.0, 0.0], [2.1, 0.0, 0.0], [2.3, 0.0, 0.0], [0.0, 0.0, -0.7], [0.0, 1.0, 0.75]])
    half = np.array([[2.0, 1.0, 0.75]])
    owner, place = assign_boxes(points, np.eye(4)[None], half, margin_m=0.2, bottom_m=0.1)
    # inside; 0.1 m beyond; 0.3 m beyond; 0.05 m above the floor; on the upper edge
    assert place.tolist() == [IN_BOX, IN_MARGIN, OUTSIDE, IN_MARGIN, IN_BOX]
    assert owner.tolist() == [0, 0, -1, 0, 0]
    owner, place = assign_boxes(points, np.empty((0, 4, 4)), np.empty((0, 3)), margin_m=0.2, bottom_m=0.1)
    assert owner.tolist() == [-1] * 5 and place.tolist() == [OUTSIDE] * 5


def test_cells_and_their_means() -> None:
    points = np.array([[0.01, 0.0, 0.0], [5.0, 0.0, 0.0], [0.05, 0.0, 0.0], [-0.01, 0.0, 0.0], [0.02, 0.0, 0.0]])
    groups = np.array([0, 0, 0, 0, 1])
    first, cell_of = share_cells(points, 0.1, groups)
    assert first.tolist() == [3, 0, 1, 4]  # by group, then x: -0.01, {0.01, 0.05}, 5, and group 1
    assert cell_of.tolist() == [1, 2, 1, 0, 3]
    means, counts = cell_means(points, cell_of, 4)
    assert np.allclose(means[:, 0], [-0.01, 0.03, 5.0, 0.02])
    assert counts.tolist() == [1, 2, 1, 1]


def test_cells_that_no_number_can_hold() -> None:
    with pytest.raises(ValueError, match="too small"):
        share_cells(np.array([[0.0, 0.0, 0.0], [1e6, 1e6, 1e6]]), 1e-5, np.zeros(2, dtype=np.int64))


def test_votes_fall_into_voxels_and_outside() -> None:
    votes = np.zeros((2, 1, 1, 3), dtype=np.int32)
    points = np.array([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-0.01, 0.0, 0.0]])
    labels, weights = np.array([1, 1, 2, 0, 0], np.uint8), np.array([1, 5, 2, 9, 9], np.int32)
    add_votes(votes, points, np.eye(4), labels=labels, weights=weights)
    assert votes[:, 0, 0].tolist() == [[0, 6, 0], [0, 0, 2]]


def test_majority_of_a_cell() -> None:
    labels = np.array([11, 11, 4, 13, 11, UNLABELLED, UNLABELLED], np.uint8)
    cells = np.array([0, 0, 0, 1, 1, 1, 2])
    # two of three; a tie of 11 and 13; nobody knows
    assert majority_labels(cells, labels, 3, OCC3D).tolist() == [11, 11, UNLABELLED]


def group_of(cells: list[list[float]], labels: list[int]) -> SweepGroup:
    none = np.zeros(0, dtype=np.int64)
    rays = Rays(np.zeros((1, 3)), none, np.zeros((0, 3), np.float32), none.astype(np.int32), none)
    weights = np.ones(len(cells), np.int32)
    return SweepGroup(
        np.array(cells, np.float32), weights, np.array(labels, np.uint8), rays, {}, np.zeros(3), rays.ends
    )


def test_labels_spread_to_neighbours_within_reach() -> None:
    known = group_of([[0, 0, 0], [0.2, 0, 0], [1, 0, 0]], [11, 11, 15])
    unknown = group_of([[0.1, 0, 0], [1.2, 0, 0], [9, 0, 0]], [UNLABELLED] * 3)
    config = LidarConfig(neighbours=3, neighbour_radius_m=0.5)
    spread = spread_labels([known, unknown], OCC3D, config)
    assert spread[0].labels.tolist() == [11, 11, 15]
    assert spread[1].labels.tolist() == [11, 15, UNKNOWN]  # two near; one near; none near


def points_over(columns: list[float], height: float) -> np.ndarray:
    """A point in the middle of each quarter of a column, at each x, in voxel units; one row of columns along x."""
    y = (np.arange(4) + 0.5) / 4
    return np.array([[x, v, height] for x in columns for v in y])


def votes_of(
    points: np.ndarray, labels: np.ndarray, border: np.ndarray | None, shape: tuple[int, int, int], reach_voxels: float
) -> np.ndarray:
    """Ground of Occ3D's classes in voxels of one metre."""
    grid = VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=shape)
    config = LidarConfig(fill_ground_m=reach_voxels)
    return ground_votes(points, labels, border, grid=grid, table=OCC3D, config=config)


def quarters(*columns: int) -> list[float]:
    return [column + (part + 0.5) / 4 for column in columns for part in range(4)]


def test_ground_reaches_beyond_its_points() -> None:
    points = points_over(quarters(0), 1.2)
    votes = votes_of(points, np.full(16, 13, np.uint8), None, (6, 1, 3), 3.0)
    # 4 x 4 parts of column 0 are known; parts within 3 voxels of the last of them are filled: columns 1, 2, 3 but for
    # the last quarter of nothing: the distance of quarter 15 to quarter 3 is 12 = 3 voxels
    assert votes[:, 0, 1, 2].tolist() == [16, 16, 16, 16, 0, 0]
    assert votes.sum() == 64
    assert not votes_of(points, np.full(16, 15, np.uint8), None, (6, 1, 3), 3.0).any()


def test_ground_follows_a_slope_through_a_gap() -> None:
    known = [x for x in quarters(*range(12)) if not 4 <= x < 7]
    points = np.concatenate([points_over([x], 0.5 + 0.25 * x) for x in known])
    votes = votes_of(points, np.full(len(points), 11, np.uint8), None, (12, 1, 5), 4.0)
    # column 5 spans heights 0.5 + 0.25 * (5 .. 6) = 1.75 .. 2.0; from the nearest ends alone it would be 1.47 and 2.28
    assert votes[5, 0, :, 0].tolist() == [0, 16, 0, 0, 0]


def test_a_slope_goes_on_beyond_its_points() -> None:
    points = np.concatenate([points_over([x], 0.5 + 0.25 * x) for x in quarters(*range(12))])
    votes = votes_of(points, np.full(len(points), 11, np.uint8), None, (24, 1, 8), 8.0)
    # column 17 spans heights 4.75 .. 5.0; as high as the last points the ground would be at 3.5
    assert votes[17, 0, :, 0].tolist() == [0, 0, 0, 0, 16, 0, 0, 0]


def test_ground_stays_on_its_side_of_the_map_and_off_unknown_matter() -> None:
    border = (2.0 - sample_places((4, 1, 2), 4)[..., 0]).astype(np.float32)
    points = np.concatenate([points_over(quarters(0), 0.5), points_over([1.9], 0.7)])
    labels = np.repeat([11, 13], [16, 4]).astype(np.uint8)  # the face of a kerb, measured on the wrong side
    votes = votes_of(points, labels, border, (4, 1, 2), 9.0)
    assert votes[:, 0, 0, 0].tolist() == [16, 12 + 0, 0, 0]  # the last quarter of column 1 keeps its own class
    assert votes[:, 0, 0, 2].tolist() == [0, 4, 0, 0]  # no sidewalk where the map says none, none beyond without points
    unknown = np.concatenate([points_over(quarters(0), 0.5), points_over([1.9], 0.7)])
    labels = np.repeat([11, UNKNOWN], [16, 4]).astype(np.uint8)
    votes = votes_of(unknown, labels, None, (4, 1, 2), 9.0)
    assert votes[:, 0, 0, 0].tolist() == [16, 8, 0, 0]  # quarters 4 and 5 are nearer to the ground than to quarter 7


def test_ground_follows_a_slope_and_skips_a_hedge() -> None:
    generator = np.random.default_rng(0)
    xy = generator.uniform(-20, 20, (20_000, 2))
    hedge = (xy[:, 0] > 8) & (xy[:, 0] < 12)
    points = np.column_stack([xy, 0.05 * xy[:, 0] + np.where(hedge, 1.2, 0.0)]).astype(np.float32)
    ground = fit_ground(points, [np.eye(4)], 0.3, GroundFitConfig())
    assert ground.holds(points[~hedge]).mean() > 0.99
    assert ground.holds(points[hedge]).mean() < 0.01
    assert not ground.holds(np.array([[500.0, 0.0, 0.0]])).any()


def write_window(folder: Path, pixels: np.ndarray) -> MapWindow:
    """A window of 0.1 m pixels with its lower left corner at the global origin."""
    Image.fromarray(pixels > 0).save(folder / "window.png")
    return MapWindow(path="window.png", corner_m=(0.0, 0.0), pixel_m=0.1)


def test_map_mask_has_its_origin_at_the_lower_left(tmp_path: Path) -> None:
    image = np.zeros((30, 20), np.uint8)
    image[29, 0] = 255  # x in [0, 0.1), y in [0, 0.1)
    image[0, 19] = 255  # x in [1.9, 2.0), y in [2.9, 3.0)
    anchor = np.array([1.0, 1.0, 0.0])
    mask = read_map_mask(tmp_path, write_window(tmp_path, image), anchor)
    points = np.array([[0.05, 0.05, 0.0], [0.15, 0.05, 0.0], [1.95, 2.95, 5.0], [1.95, 3.05, 0.0], [-0.05, 0.0, 0.0]])
    assert mask.holds(points - anchor).tolist() == [True, False, True, False, False]


def test_map_mask_missing_or_broken(tmp_path: Path) -> None:
    window = MapWindow(path="maps/a.png", corner_m=(0.0, 0.0), pixel_m=0.1)
    with pytest.raises(DataError, match="map window is missing"):
        read_map_mask(tmp_path, window, np.zeros(3))
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"maps/a.png: map window .*Run `protoocc prepare --overwrite`"):
        read_map_mask(tmp_path, window, np.zeros(3))


def wall_with_a_hole() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, points and votes of a wall in voxels (2, 1 .. 4, 1 .. 4); the rays missed voxel (2, 2, 2)."""
    side = np.arange(1.1, 5.0, 0.2)
    points = np.array([[2.5, y, z] for y in side for z in side if not (2 <= y < 3 and 2 <= z < 3)])
    semantics = np.full((6, 6, 6), 17, np.uint8)
    votes = np.zeros((6, 6, 6, 19), np.int32)
    add_votes(
        votes, points, np.eye(4), labels=np.full(len(points), 15, np.uint8), weights=np.ones(len(points), np.int32)
    )
    semantics[votes[..., 15] > 0] = 15
    return semantics, points, votes


def filled_surfaces(
    semantics: np.ndarray, points: np.ndarray, votes: np.ndarray, *, passed: bool = False
) -> np.ndarray:
    return fill_surfaces(semantics, np.full(semantics.shape, passed), points, votes, OCC3D, SurfaceConfig())


def test_surfaces_fill_holes_that_rays_passed() -> None:
    semantics, points, votes = wall_with_a_hole()
    filled = filled_surfaces(semantics, points, votes, passed=True)
    assert np.argwhere(filled != semantics).tolist() == [[2, 2, 2]] and filled[2, 2, 2] == 15
    assert np.array_equal(filled_surfaces(semantics, points, votes), semantics)


def test_surfaces_are_flat() -> None:
    semantics, points, votes = wall_with_a_hole()
    rough = points + np.random.default_rng(0).uniform(-0.5, 0.5, points.shape) * (3.0, 0.0, 0.0)
    assert np.array_equal(filled_surfaces(semantics, rough, votes, passed=True), semantics)


def test_height_drift_that_poses_miss() -> None:
    squares = np.array([[x / 2 + 0.25, y / 2 + 0.25, 0.0] for x in range(12) for y in range(12)])
    climbed = squares - [0.0, 0.0, 0.4]  # the vehicle stands 0.4 m higher, so it sees the ground 0.4 m lower
    drift = measure_height_drift([0, 10, 20], [squares, climbed, climbed], HeightDriftConfig())
    assert np.allclose(drift.drifts_m, [0.0, 0.4, 0.4])
    assert drift.at(5) == pytest.approx(0.2) and drift.at(-9) == 0.0 and drift.at(99) == pytest.approx(0.4)
    few = measure_height_drift([0, 10], [squares, climbed[:99]], HeightDriftConfig())
    assert few.drifts_m.tolist() == [0.0, 0.0]  # 99 columns are too few to compare


def test_height_drift_looks_at_flat_columns_only() -> None:
    squares = np.array([[x / 2 + 0.25, y / 2 + 0.25, 0.0] for x in range(24) for y in range(12)])
    wall = np.concatenate([squares[:150] + [0.0, 0.0, 0.5], squares[:150] + [0.0, 0.0, 1.5]])
    clouds = [squares, np.concatenate([squares - [0.0, 0.0, 0.1], wall])]
    drift = measure_height_drift([0, 10], clouds, HeightDriftConfig())
    assert np.allclose(drift.drifts_m, [0.0, 0.1])


def test_neighbours_along_the_border_of_the_road_are_nearer_than_across(tmp_path: Path) -> None:
    image = np.zeros((20, 20), np.uint8)
    image[:, :10] = 255  # driveable up to x = 1
    mask = read_map_mask(tmp_path, write_window(tmp_path, image), np.zeros(3))
    points = np.array([[0.95, 0.1, 0.0], [1.15, 0.5, 0.0], [0.45, 0.5, 0.0]])
    assert mask.border_distance(points) == pytest.approx([0.1, -0.2, 0.6], abs=1e-6)  # pixels 9, 11 and 4
    known = group_of(points[:2].tolist(), [11, 13])
    unknown = group_of([[0.95, 0.5, 0.0]], [UNLABELLED])
    config = LidarConfig(neighbours=1)
    assert spread_labels([known, unknown], OCC3D, config)[1].labels.tolist() == [13]  # 0.2 m away
    # along: 0.4 m; across: hypot(0.2, 3 * 0.3) = 0.92
    assert spread_labels([known, unknown], OCC3D, config, mask)[1].labels.tolist() == [11]


def box_record(x: float, token: str) -> BoxRecord:
    pose = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(x, 0.0, 0.5))
    return BoxRecord(
        token=token, instance="car", category="vehicle.car", label=4, size_lwh_m=(2.0, 1.0, 1.0), num_lidar_pts=9,
        global_from_box=pose,
    )  # fmt: skip


def test_swept_voxels_lie_on_the_path_but_not_in_a_box() -> None:
    still = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(0.0, 0.0, 0.0))
    grid = VoxelGrid(minimum_m=(-4.0, -2.0, 0.0), voxel_size_m=0.5, shape=(24, 8, 4))
    records = []
    for frame, x in enumerate((0.0, 4.0)):
        time_us = frame * 500_000
        lidar = LidarRecord(
            token="l", path="p", timestamp_us=time_us, ego_from_lidar=still, global_from_ego=still, labels_path=None
        )
        records.append(
            SampleRecord(
                token=str(frame),
                scene="s",
                frame=frame,
                timestamp_us=time_us,
                previous=None,
                next=None,
                cameras={},
                global_from_vehicle=still,
                lidar=lidar,
                boxes=(box_record(x, str(frame)),),
                sweeps=(),
                map_window=None,
                splits=(),
            )  # fmt: skip
        )
    swept = swept_voxels(records, 0, grid)
    # centres -3.75 + 0.5 i: the path covers x from -1 to 5, the box of keyframe 0, half a voxel larger, -1.25 to 1.25
    assert np.argwhere(swept.any(axis=(1, 2)))[:, 0].tolist() == list(range(11, 18))  # 1.25 .. 4.75, without 1.25
    assert (
        np.argwhere(swept.any(axis=(0, 2)))[:, 0].tolist() == [3, 4]
        and swept[12, 3].tolist() == [True] * 2 + [False] * 2
    )
    parked = [records[0], records[1].model_copy(update={"boxes": (box_record(0.9, "1"),)})]
    assert not swept_voxels(parked, 0, grid).any()


def test_comparison_by_hand() -> None:
    def labels(semantics: list[int], lidar: list[int], camera: list[int]) -> dict[str, np.ndarray]:
        names = ("semantics", "mask_lidar", "mask_camera")
        values = (semantics, lidar, camera)
        return {n: np.array(v, np.uint8).reshape(-1, 1, 1) for n, v in zip(names, values, strict=True)}

    ours = labels([4, 255, 17, 11, 17, 4], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0])
    truth = labels([4, 15, 11, 13, 17, 17], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0])
    figures = compare_occupancy(ours, truth, OCC3D)
    assert figures["occupied_iou"] == 3 / 4  # voxels 0, 1, 3 in both; 2 only in the truth; 5 is not observed
    assert figures["semantic_accuracy"] == 1 / 2  # 0 agrees, 3 does not, 1 is unknown
    assert figures["mask_lidar_f1"] == pytest.approx(2 * 4 / (4 + 5))
    assert figures["mask_camera_f1"] == pytest.approx(2 * 1 / (1 + 2))
    swept = np.array([False, False, False, False, True, True]).reshape(-1, 1, 1)
    # the last two are free in the truth; one of them holds a car
    assert compare_occupancy(ours, truth, OCC3D, swept)["trail_share"] == 1 / 2
    assert "trail_share" not in figures
    assert np.isnan(compare_occupancy(labels([17], [0], [0]), labels([17], [0], [0]), OCC3D)["occupied_iou"])


def test_ground_becomes_the_foot_of_a_wall() -> None:
    side, high = np.arange(0.1, 6.0, 0.2), np.arange(1.6, 4.0, 0.2)
    points = np.array([[2.5, y, z] for y in side for z in high])
    votes = np.zeros((6, 6, 6, 19), np.int32)
    own = np.full(len(points), 15, np.uint8)
    add_votes(votes, points, np.eye(4), labels=own, weights=np.ones(len(points), np.int32))
    semantics = np.full((6, 6, 6), 17, np.uint8)
    semantics[2, :, 2:4] = 15
    semantics[:, :, 1] = 11  # the road won its voxels, those of the wall's foot included
    filled = filled_surfaces(semantics, points, votes)
    assert (filled[2, 1:5, 1] == 15).all()
    assert (filled[[0, 1, 3, 4, 5], :, 1] == 11).all() and not (filled[:, :, 0] != 17).any()
    lying = filled_surfaces(semantics, points[:, [2, 1, 0]] - (1.0, 0.0, 0.9), votes)
    assert np.array_equal(lying, semantics)  # a flat thing on the road has no foot
