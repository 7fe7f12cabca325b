"""RayIoU against hand-made grids and against a slow, literal walk of single rays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protoocc.ray_iou import THRESHOLDS_M, RayConfusion, cast_rays, lidar_places, ray_directions
from schemas.classes import OCC3D
from schemas.geometry import VoxelGrid

FREE, CAR, ROAD = 17, 4, 11
GRID = VoxelGrid(minimum_m=(-4.0, -4.0, -1.2), voxel_size_m=0.4, shape=(20, 20, 9))


def literal_ray(volume: np.ndarray, place: np.ndarray, direction: np.ndarray) -> tuple[int, float]:
    """Class and distance in voxels where one ray stops, as the benchmark's kernel walks (x, y, z voxel units)."""
    voxel = [int(coordinate) for coordinate in place]
    step = [1 if component > 0 else -1 for component in direction]
    crossing, gap = [math.inf] * 3, [math.inf] * 3
    for axis in range(3):
        if direction[axis] != 0:
            face = voxel[axis] + (step[axis] > 0)
            crossing[axis] = (face - place[axis]) / direction[axis]
            gap[axis] = step[axis] / direction[axis]
    last = (FREE, 0.0)
    for _ in range(1000):
        inside = all(0 <= index < size for index, size in zip(voxel, volume.shape, strict=True))
        label = int(volume[tuple(voxel)]) if inside else FREE
        leaves = min(crossing)
        if inside:
            last = (label, leaves)
        if label != FREE:
            return last
        if crossing[0] < crossing[1]:
            axis = 0 if crossing[0] < crossing[2] else 2
        else:
            axis = 1 if crossing[1] < crossing[2] else 2
        voxel[axis] += step[axis]
        crossing[axis] += gap[axis]
    return last


def literal_scores(prediction: np.ndarray, truth: np.ndarray, places_m: np.ndarray) -> np.ndarray:
    """IoU of each threshold and class, by the rules, ray by ray."""
    hits, labelled, predicted = np.zeros((3, 18)), np.zeros(18), np.zeros(18)
    low, size = np.array(GRID.minimum_m, np.float32), np.float32(GRID.voxel_size_m)
    for place_m in places_m.astype(np.float32):
        start = ((place_m - low) / size).astype(np.float64)
        for ray in ray_directions()[::101]:
            direction = ((ray + place_m - low) / size).astype(np.float64) - start
            direction /= np.sqrt((direction**2).sum())
            (label, reach), (found, found_reach) = (
                literal_ray(volume, start, direction) for volume in (truth, prediction)
            )
            if label == FREE:
                continue
            labelled[label] += 1
            predicted[found] += 1
            for row, threshold in enumerate((1.0, 2.0, 4.0)):
                hits[row, label] += label == found and abs(reach - found_reach) * 0.4 < threshold
    with np.errstate(invalid="ignore"):
        return (hits / (labelled + predicted - hits))[:, :17]


def room(car_at: slice | int = 15, car: int = CAR) -> np.ndarray:
    """A road with a wall of a car across x."""
    volume = np.full(GRID.shape, FREE, np.uint8)
    volume[:, :, 0] = ROAD
    volume[car_at, :, 1:] = car
    return volume


def score(prediction: np.ndarray, truth: np.ndarray, places_m: np.ndarray | None = None):
    confusion = RayConfusion(OCC3D)
    places_m = np.zeros((1, 3)) if places_m is None else places_m
    confusion.add(*(cast_rays(volume, places_m, OCC3D, GRID) for volume in (prediction, truth)))
    return confusion.scores()


def test_rays_are_those_of_the_benchmark() -> None:
    rays = ray_directions()
    assert rays.shape == (14_040, 3)
    assert np.allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    pitches = np.unique(np.arcsin(rays[:, 2]).round(5))
    assert len(pitches) == 39
    assert pitches[0] == pytest.approx(-math.pi / 4, abs=1e-4)
    assert pitches[-2] < 0.21 <= pitches[-1]
    assert np.diff(pitches)[-1] == pytest.approx(0.01099, abs=2e-5)


def test_the_same_volume_scores_one_and_classes_that_no_ray_meets_do_not_count() -> None:
    scores = score(room(), room())
    assert scores.ray_iou == 1 and set(scores.at.values()) == {1.0} and tuple(scores.at) == THRESHOLDS_M
    assert scores.classes["car"] == 1 and math.isnan(scores.classes["bus"])


def test_distance_decides_at_each_threshold_strictly() -> None:
    """From the middle of the grid: the wall stands 2 voxels (0.8 m) or 3 voxels (1.2 m) nearer; the road is whole."""
    level = np.array([[0.0, 0.0, 0.3]])
    by_two, by_three = (score(room(car_at), room(15), level) for car_at in (13, 12))
    assert by_two.at[1.0] > by_three.at[1.0]
    assert by_two.at[4.0] == pytest.approx(by_three.at[4.0], abs=0.2)


def test_a_thick_surface_earns_nothing() -> None:
    """The distance is where the ray leaves the first voxel that it meets, so only the front of a surface counts."""
    thick = score(room(slice(15, 20)), room(15))
    assert thick.ray_iou == 1


def test_another_class_counts_against_both() -> None:
    scores = score(room(car=3), room())
    assert scores.classes["car"] == 0 and scores.classes["bus"] == 0
    assert 0 < scores.classes["driveable_surface"] <= 1


def test_rays_that_end_free_in_the_labels_are_dropped() -> None:
    empty, scores = np.full(GRID.shape, FREE, np.uint8), score(room(), np.full(GRID.shape, FREE, np.uint8))
    assert scores.rays == 0 and math.isnan(scores.ray_iou)
    assert score(empty, room()).ray_iou == 0


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_literal_walk(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random volumes; places inside voxels, on faces and edges (so that faces are met at once), above the grid."""
    random = np.random.default_rng(seed)
    truth = random.choice([CAR, ROAD, FREE], GRID.shape, p=[0.02, 0.02, 0.96]).astype(np.uint8)
    prediction = np.where(random.random(GRID.shape) < 0.7, truth, np.roll(truth, 1, axis=seed)).astype(np.uint8)
    places_m = np.array([[0.0, 0.0, 0.0], [0.4, -0.8, 0.4], [1.31, -0.27, 0.73], [0.2, 0.2, 3.0], [-3.9, 3.1, 1.0]])
    expected = literal_scores(prediction, truth, places_m)
    rays = ray_directions()[::101]
    monkeypatch.setattr("protoocc.ray_iou.ray_directions", lambda: rays)
    scores = score(prediction, truth, places_m)
    assert scores.ray_iou == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert [scores.at[threshold] for threshold in THRESHOLDS_M] == pytest.approx(np.nanmean(expected, axis=1).tolist())


def test_places_are_near_ones_of_the_scene_and_at_most_eight() -> None:
    poses = []
    for number in range(30):
        pose = np.eye(4)
        pose[:3, 3] = (100 + 4.0 * number, 50, 2)
        poses.append(pose)
    ego = np.array([[0.0, -1, 0, 160], [1, 0, 0, 50], [0, 0, 1, 0], [0, 0, 0, 1]])
    places_m = lidar_places(poses, ego)
    near = [-60 + 4.0 * number for number in range(30) if abs(-60 + 4.0 * number) < 39]
    chosen = [near[round(index)] for index in np.linspace(0, len(near) - 1, 8)]
    assert np.allclose(places_m, [(0, -along, 2) for along in chosen])
    assert len(lidar_places(poses[:3], poses[0])) == 3
