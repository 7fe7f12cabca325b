"""Parts of the label maker, by hand: boxes in time, boxes and cells of points, ground, map, heights, comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.occupancy.chunks import Chunk, Rays, majority_labels
from pipelines.occupancy.compare import compare_occupancy
from pipelines.occupancy.completion import fill_ground
from pipelines.occupancy.config import LidarConfig
from pipelines.occupancy.ground import fit_ground, read_map_mask
from pipelines.occupancy.heights import lift, vehicle_heights
from pipelines.occupancy.kernels import IN_BOX, IN_MARGIN, OUTSIDE, add_votes, assign_boxes, cell_means, share_cells
from pipelines.occupancy.points import UNLABELLED
from pipelines.occupancy.semantics import spread_labels
from pipelines.occupancy.tracks import Track, boxes_at
from schemas.errors import DataError


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
    assert majority_labels(cells, labels, 3).tolist() == [11, 11, UNLABELLED]


def chunk_of(cells: list[list[float]], labels: list[int]) -> Chunk:
    none = np.zeros(0, dtype=np.int64)
    rays = Rays(np.zeros((1, 3)), none, np.zeros((0, 3), np.float32), none.astype(np.int32), none)
    weights = np.ones(len(cells), np.int32)
    return Chunk(np.array(cells, np.float32), weights, np.array(labels, np.uint8), rays, np.zeros((1, 3)), {})


def test_labels_spread_to_neighbours_within_reach() -> None:
    known = chunk_of([[0, 0, 0], [0.2, 0, 0], [1, 0, 0]], [11, 11, 15])
    unknown = chunk_of([[0.1, 0, 0], [1.2, 0, 0], [9, 0, 0]], [UNLABELLED] * 3)
    config = LidarConfig(neighbours=3, neighbour_radius_m=0.5)
    spread = spread_labels([known, unknown], config)
    assert spread[0].labels.tolist() == [11, 11, 15]
    assert spread[1].labels.tolist() == [11, 15, 255]  # two near; one near; none near


def test_ground_fills_columns_within_reach_only() -> None:
    votes = np.zeros((6, 1, 3, 18), dtype=np.int32)
    votes[0, 0, 1, 13] = 4
    votes[0, 0, 2, 15] = 9  # a wall above the sidewalk is no ground
    semantics = np.full((6, 1, 3), 17, np.uint8)
    semantics[0, 0, 1:] = [13, 15]
    semantics[2, 0, 1] = 4  # a car stands there
    filled = fill_ground(semantics, votes, 3.0)
    assert filled[:, 0, 1].tolist() == [13, 13, 4, 13, 17, 17]
    assert (filled[1:, 0, [0, 2]] == 17).all()
    assert semantics[1, 0, 1] == 17  # the argument stays
    assert np.array_equal(fill_ground(semantics, np.zeros_like(votes), 3.0), semantics)


def test_ground_follows_a_slope_and_skips_a_hedge() -> None:
    generator = np.random.default_rng(0)
    xy = generator.uniform(-20, 20, (20_000, 2))
    hedge = (xy[:, 0] > 8) & (xy[:, 0] < 12)
    points = np.column_stack([xy, 0.05 * xy[:, 0] + np.where(hedge, 1.2, 0.0)]).astype(np.float32)
    ground = fit_ground(points, [np.eye(4)], 0.3)
    assert ground.holds(points[~hedge]).mean() > 0.99
    assert ground.holds(points[hedge]).mean() < 0.01
    assert not ground.holds(np.array([[500.0, 0.0, 0.0]])).any()


def test_map_mask_has_its_origin_at_the_lower_left(tmp_path: Path) -> None:
    image = np.zeros((30, 20), np.uint8)
    image[29, 0] = 255  # x in [0, 0.1), y in [0, 0.1)
    image[0, 19] = 255  # x in [1.9, 2.0), y in [2.9, 3.0)
    Image.fromarray(image).save(tmp_path / "mask.png")
    anchor = np.array([1.0, 1.0, 0.0])
    mask = read_map_mask(tmp_path / "mask.png", np.array([[1.0, 1.0, 0.0]]), anchor)
    points = np.array([[0.05, 0.05, 0.0], [0.15, 0.05, 0.0], [1.95, 2.95, 5.0], [1.95, 3.05, 0.0], [-0.05, 0.0, 0.0]])
    assert mask.holds(points - anchor).tolist() == [True, False, True, False, False]


def test_map_mask_missing_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(DataError, match="map mask"):
        read_map_mask(path, np.zeros((1, 3)), np.zeros(3))
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=str(path)):
        read_map_mask(path, np.zeros((1, 3)), np.zeros(3))


def test_heights_that_poses_miss() -> None:
    squares = [[x + 0.5, y + 0.5, 0.0] for x in range(12) for y in range(12)]
    level = chunk_of(squares, [11] * 144)
    climbed = lift(level, -0.4)  # the vehicle stands 0.4 m higher, so it sees the ground 0.4 m lower
    assert np.allclose(vehicle_heights([level, climbed, climbed]), [0.0, 0.4, 0.4])
    few = chunk_of(squares[:99], [11] * 99)
    assert vehicle_heights([level, lift(few, 1.0)]).tolist() == [0.0, 0.0]  # 99 squares are too few to compare


def test_comparison_by_hand() -> None:
    def labels(semantics: list[int], lidar: list[int], camera: list[int]) -> dict[str, np.ndarray]:
        names = ("semantics", "mask_lidar", "mask_camera")
        values = (semantics, lidar, camera)
        return {n: np.array(v, np.uint8).reshape(-1, 1, 1) for n, v in zip(names, values, strict=True)}

    ours = labels([4, 255, 17, 11, 17, 4], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0])
    truth = labels([4, 15, 11, 13, 17, 17], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0])
    figures = compare_occupancy(ours, truth)
    assert figures["occupied_iou"] == 3 / 4  # voxels 0, 1, 3 in both; 2 only in the truth; 5 is not observed
    assert figures["semantic_accuracy"] == 1 / 2  # 0 agrees, 3 does not, 1 is unknown
    assert figures["mask_lidar_f1"] == pytest.approx(2 * 4 / (4 + 5))
    assert figures["mask_camera_f1"] == pytest.approx(2 * 1 / (1 + 2))
    assert np.isnan(compare_occupancy(labels([17], [0], [0]), labels([17], [0], [0]))["occupied_iou"])
