"""Kernels that walk voxels: hand-made lines, borders, and a brute-force twin."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.raycast import CarveLimits, count_passes, mark_passed, mark_visible, traverse

SHAPE = (4, 3, 2)


def walk(start: tuple[float, ...], end: tuple[float, ...], shape: tuple[int, int, int] = SHAPE) -> list[list[int]]:
    path: list[list[int]] = traverse(np.array(start), np.array(end), shape).tolist()
    return path


@pytest.mark.parametrize(
    ("start", "end", "path"),
    [
        ((0.5, 0.5, 0.5), (2.5, 0.5, 0.5), [[0, 0, 0], [1, 0, 0], [2, 0, 0]]),
        ((2.5, 0.5, 0.5), (0.5, 0.5, 0.5), [[2, 0, 0], [1, 0, 0], [0, 0, 0]]),
        ((0.5, 0.5, 0.5), (0.6, 0.7, 0.8), [[0, 0, 0]]),
        ((0.5, 0.5, 1.5), (0.5, 2.5, 1.5), [[0, 0, 1], [0, 1, 1], [0, 2, 1]]),
        ((0.5, 2.5, 1.5), (0.5, 2.5, 0.5), [[0, 2, 1], [0, 2, 0]]),
        # from (0.2, 0.6) with slope (1.2, 1.2): y = 1 is met at x = 0.6, x = 1 at y = 1.4
        ((0.2, 0.6, 0.5), (1.4, 1.8, 0.5), [[0, 0, 0], [0, 1, 0], [1, 1, 0]]),
    ],
)
def test_traverse_by_hand(start: tuple[float, ...], end: tuple[float, ...], path: list[list[int]]) -> None:
    assert walk(start, end) == path


def test_traverse_ties_go_x_then_y_then_z() -> None:
    assert walk((0.5, 0.5, 0.5), (1.5, 1.5, 1.5)) == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert walk((1.5, 1.5, 1.5), (0.5, 0.5, 0.5)) == [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_traverse_on_a_face_belongs_to_the_upper_voxel() -> None:
    assert walk((2.0, 0.5, 0.5), (1.5, 0.5, 0.5)) == [[2, 0, 0], [1, 0, 0]]
    assert walk((1.5, 0.5, 0.5), (2.0, 0.5, 0.5)) == [[1, 0, 0], [2, 0, 0]]


def test_traverse_starts_outside() -> None:
    assert walk((-3.5, 0.5, 0.5), (1.5, 0.5, 0.5)) == [[0, 0, 0], [1, 0, 0]]
    assert walk((9.5, 0.5, 0.5), (2.5, 0.5, 0.5)) == [[3, 0, 0], [2, 0, 0]]
    # enters at the corner (0, 0); x before z at each corner after it
    assert walk((-1.0, 1.5, -1.0), (4.0, 1.5, 4.0)) == [[0, 1, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1]]


def test_traverse_leaves_the_grid_or_misses_it() -> None:
    assert walk((2.5, 1.5, 0.5), (90.5, 1.5, 0.5)) == [[2, 1, 0], [3, 1, 0]]
    assert walk((-1.0, -0.5, 0.5), (9.0, -0.5, 0.5)) == []
    assert walk((5.0, 0.5, 0.5), (9.0, 0.5, 0.5)) == []
    assert walk((3.5, 3.0, 0.5), (0.5, 3.0, 0.5)) == []  # y = 3 is the outer face, outside


def test_traverse_agrees_with_dense_sampling() -> None:
    generator = np.random.default_rng(0)
    shape = (20, 17, 9)
    for _ in range(200):
        start, end = generator.uniform(-5, 25, (2, 3))
        samples = start + np.linspace(0, 1, 4001)[:, None] * (end - start)
        cells = np.floor(samples).astype(np.int64)
        cells = cells[np.all((cells >= 0) & (cells < np.array(shape)), axis=1)]
        path = traverse(start, end, shape)
        assert {tuple(cell) for cell in cells} <= {tuple(cell) for cell in path}
        if len(path) > 1:
            assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()
            middle = np.abs(path + 0.5 - np.clip(path + 0.5, np.minimum(start, end), np.maximum(start, end)))
            assert middle.max() <= 0.5 + 1e-9  # every voxel touches the segment's bounding box


def passes(hit: tuple[float, ...], limits: CarveLimits, *, ground: bool = False, weight: int = 1) -> np.ndarray:
    counts = np.zeros((10, 1, 6), dtype=np.int32)
    rays = (np.array([[0.5, 0.5, 0.5]]), np.array([0]), np.array([hit]))
    count_passes(counts, rays, weights=np.array([weight], np.int32), on_ground=np.array([ground]), limits=limits)
    return counts


def test_passes_reach_the_voxel_before_the_hit() -> None:
    counts = passes((5.5, 0.5, 0.5), CarveLimits(), weight=3)
    assert counts[:, 0, 0].tolist() == [3, 3, 3, 3, 3, 0, 0, 0, 0, 0]  # hit in voxel 5, behind it nothing
    assert counts.sum() == 15


def test_passes_through_the_whole_grid_when_the_hit_is_beyond() -> None:
    assert passes((99.5, 0.5, 0.5), CarveLimits())[:, 0, 0].tolist() == [1] * 10


def test_passes_ignore_both_ends() -> None:
    # L1 distance of centres 0.5, 1.5, ... to the start 0.5 and the hit 6.5: below 2 for voxels 0, 1 and 5
    counts = passes((6.5, 0.5, 0.5), CarveLimits(ignore_ends=2.0))
    assert counts[:, 0, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]


def test_passes_stop_before_the_hit() -> None:
    # centres nearer than 2.5 to the hit 6.5: voxels 5 (1.0) and 4 (2.0)
    counts = passes((6.5, 0.5, 0.5), CarveLimits(stop_before_hit=2.5))
    assert counts[:, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_passes_ignore_what_lies_low_above_ground() -> None:
    limits = CarveLimits(ignore_above_ground=2.0)
    counts = np.zeros((10, 1, 6), dtype=np.int32)
    rays = (np.array([[0.5, 0.5, 5.5]]), np.array([0, 0]), np.array([[9.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    count_passes(counts, rays, weights=np.ones(2, np.int32), on_ground=np.array([True, False]), limits=limits)
    # the steep ray is not on the ground: voxels z = 5..1 of column 0 count; the flat one counts for z + 0.5 - 0.5 >= 2
    assert counts[0, 0].tolist() == [0, 1, 1, 1, 1, 2]
    assert counts[1:, 0, :2].sum() == 0
    assert counts[1:, 0, 2:].sum() > 0


def test_visible_ends_with_the_first_occupied_voxel() -> None:
    occupied = np.zeros((6, 1, 1), dtype=bool)
    occupied[[3, 5]] = True
    visible = np.zeros_like(occupied)
    mark_visible(visible, occupied, np.array([0.5, 0.5, 0.5]), np.array([[1.0, 0.0, 0.0]]))
    assert visible[:, 0, 0].tolist() == [True, True, True, True, False, False]


def test_visible_from_outside_and_backwards() -> None:
    occupied = np.zeros((4, 2, 2), dtype=bool)
    visible = np.zeros_like(occupied)
    mark_visible(visible, occupied, np.array([900.5, 1.5, 0.5]), np.array([[-1.0, 0.0, 0.0]]))
    assert np.argwhere(visible).tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0], [3, 1, 0]]
    mark_visible(visible, occupied, np.array([900.5, 1.5, 0.5]), np.array([[1.0, 0.0, 0.0]]))
    assert visible.sum() == 4  # looking away adds nothing


def test_passed_voxels_with_and_without_the_last() -> None:
    passed = np.zeros((4, 3, 1), dtype=bool)
    ends = np.array([[2.5, 0.5, 0.5], [1.5, 2.5, 0.5], [9.0, 1.4, 0.5]])
    mark_passed(passed, np.array([0.5, 0.5, 0.5]), ends, np.array([True, False, False]))
    # (0 1 2, 0) to the end; (0.5, 0.5) to (1.5, 2.5) meets y = 1 at x = 0.75, x = 1 at y = 1.5, y = 2 at x = 1.25 and
    # leaves out (1, 2); the last one goes through (3, 0) and leaves the grid
    expected = [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [3, 0]]
    assert np.argwhere(passed[..., 0]).tolist() == expected
