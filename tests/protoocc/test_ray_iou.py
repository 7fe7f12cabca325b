"""RayIoU against hand-made grids and against a slow, literal walk of single rays."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from protoocc.ray_iou import THRESHOLDS_M, RayConfusion, RayEnds, cast_rays, ray_directions
from schemas.classes import OCC3D
from schemas.geometry import OCC3D_GRID, VoxelGrid

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
    low, size = low.astype(np.float64), float(size)
    for place_m in places_m:
        start = ((place_m - low) / size).astype(np.float32).astype(np.float64)
        for ray in ray_directions()[::307]:
            direction = ((ray + place_m - low) / size).astype(np.float32).astype(np.float64) - start
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


METRE_GRID = VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(8, 8, 8))


def end_of(
    ray: tuple[float, float, float], *occupied: tuple[int, int, int], place_m: tuple[float, float, float]
) -> tuple[int, float]:
    """Class and distance where one ray stops in a grid of voxels of 1 m, in which the given ones are cars."""
    volume = np.full(METRE_GRID.shape, FREE, np.uint8)
    for voxel in occupied:
        volume[voxel] = CAR
    direction = np.array([ray], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protoocc.ray_iou.ray_directions", lambda: direction)
        ends = cast_rays(volume, np.array([place_m], np.float64), OCC3D, METRE_GRID)
    return int(ends.labels[0]), float(ends.distances_m[0])


def test_distance_is_where_the_ray_leaves_the_voxel() -> None:
    # From x = 1.5: voxel 4 is entered after 2.5 m and left, at x = 5, after 3.5 m.
    assert end_of((1, 0, 0), (4, 2, 2), (5, 2, 2), place_m=(1.5, 2.5, 2.5)) == (CAR, 3.5)
    # Backwards: voxel 0 is left at x = 0.
    assert end_of((-1, 0, 0), (0, 2, 2), place_m=(1.5, 2.5, 2.5)) == (CAR, 1.5)
    # The ray's own voxel counts: it is left after 0.5 m.
    assert end_of((1, 0, 0), (1, 2, 2), place_m=(1.5, 2.5, 2.5)) == (CAR, 0.5)


def test_ray_without_a_hit_ends_free_where_the_grid_does() -> None:
    assert end_of((0, -1, 0), (2, 5, 2), place_m=(2.5, 3.5, 2.5)) == (FREE, 3.5)
    assert end_of((0, 0, 1), place_m=(2.5, 3.5, 2.5)) == (FREE, 5.5)


def test_ray_along_an_axis_stays_in_its_row_of_voxels() -> None:
    """Cars beside the ray, in every neighbouring row, are not met."""
    beside = [(5, y, z) for y in (1, 2, 3) for z in (1, 2, 3) if (y, z) != (2, 2)]
    assert end_of((1, 0, 0), *beside, place_m=(1.5, 2.0, 2.999)) == (FREE, 6.5)


def test_a_place_on_a_face_belongs_to_the_voxel_above_it() -> None:
    """Backwards, that voxel is left at once."""
    assert end_of((-1, 0, 0), (3, 2, 2), place_m=(3.0, 2.5, 2.5)) == (CAR, 0.0)
    assert end_of((1, 0, 0), (3, 2, 2), place_m=(3.0, 2.5, 2.5)) == (CAR, 1.0)


@pytest.mark.parametrize(
    ("ray", "met", "passed"),
    [
        ((1, 1, 0), (1, 2, 1), (2, 1, 1)),  # y before x
        ((1, 0, 1), (1, 1, 2), (2, 1, 1)),  # z before x
        ((0, 1, 1), (1, 1, 2), (1, 2, 1)),  # z before y
        ((-1, -1, 0), (1, 0, 1), (0, 1, 1)),
    ],
)
def test_faces_that_are_met_at_once_go_in_order_z_y_x(
    ray: tuple[float, float, float], met: tuple[int, int, int], passed: tuple[int, int, int]
) -> None:
    """A ray through an edge enters one of the two voxels beside it and never the other."""
    middle = (1.5, 1.5, 1.5)
    assert end_of(ray, met, place_m=middle)[0] == CAR
    assert end_of(ray, passed, place_m=middle)[0] == FREE


def test_ray_from_above_the_grid_is_walked_until_it_enters() -> None:
    # From z = 10 down at 45 degrees to x: z = 8 at x = 3, the floor's voxel (x 10, z 0) lies outside, (7, 2, 3) is met.
    label, distance_m = end_of((1, 0, -1), (7, 2, 3), place_m=(1.25, 2.5, 10.0))
    assert label == CAR
    # z = 3 is crossed after 7 steps down at x = 8.25, x = 8 before that, after 6.75: 6.75 * sqrt(2) m.
    assert distance_m == pytest.approx(6.75 * math.sqrt(2), rel=1e-6)


def test_the_difference_must_be_below_the_threshold() -> None:
    labels, ends_m = np.full(5, CAR, np.uint8), np.array([5, 5, 5, 5, 5], np.float32)
    confusion = RayConfusion(OCC3D)
    confusion.add(RayEnds(labels, np.array([5.9, 6.0, 3.0, 8.9, 9.0], np.float32)), RayEnds(labels, ends_m))
    # Differences 0.9, 1, 2, 3.9, 4: of 5 rays 1 is within 1 m, 2 within 2 m, 4 within 4 m; IoU n / (10 - n).
    assert confusion.scores().at == {1.0: 1 / 9, 2.0: 2 / 8, 4.0: 4 / 6}
    assert confusion.scores().ray_iou == pytest.approx((1 / 9 + 2 / 8 + 4 / 6) / 3)


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
    rays = ray_directions()[::307]
    monkeypatch.setattr("protoocc.ray_iou.ray_directions", lambda: rays)
    scores = score(prediction, truth, places_m)
    assert scores.ray_iou == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert [scores.at[threshold] for threshold in THRESHOLDS_M] == pytest.approx(np.nanmean(expected, axis=1).tolist())


def test_real_labels(real_occ3d: Path) -> None:
    """Occ3D's public file: rays as the literal walk has them, RayIoU 1 against itself, and the time of a frame."""
    labels = read_npz(real_occ3d)
    places_m = np.array([[0.9858 + 4.4 * number, 0.0, 1.8402] for number in range(8)])
    ends = cast_rays(labels, places_m, OCC3D, OCC3D_GRID)
    directions = ray_directions().astype(np.float64)
    low, size = np.array([-40, -40, -1], np.float64), float(np.float32(0.4))
    for number in range(0, len(ends.labels), 1999):
        place, ray = places_m[number // len(directions)], directions[number % len(directions)]
        start = ((place - low) / size).astype(np.float32).astype(np.float64)
        direction = ((ray + place - low) / size).astype(np.float32).astype(np.float64) - start
        label, reach = literal_ray(labels, start, direction / np.sqrt((direction**2).sum()))
        assert (int(ends.labels[number]), float(ends.distances_m[number])) == (label, pytest.approx(reach * 0.4))
    confusion = RayConfusion(OCC3D)
    began = time.process_time()
    confusion.add(cast_rays(labels, places_m, OCC3D, OCC3D_GRID), cast_rays(labels, places_m, OCC3D, OCC3D_GRID))
    assert time.process_time() - began < 3
    scores = confusion.scores()
    assert scores.ray_iou == 1 and scores.rays > 50_000


def read_npz(folder: Path) -> np.ndarray:
    with np.load(next(folder.rglob("labels.npz"))) as arrays:
        return arrays["semantics"]
