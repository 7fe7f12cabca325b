"""Walks through a voxel grid: hand-made lines, borders, a brute-force twin, first hits, visibility."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schemas.voxels.first_hit import first_hits
from schemas.voxels.visibility import mark_passed, mark_visible
from schemas.voxels.walk import traverse

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


def test_first_hits_stop_at_the_first_voxel_and_tell_where_it_begins_and_ends() -> None:
    occupied = np.zeros((10, 4, 4), dtype=bool)
    occupied[6, 1, 1] = occupied[8, 1, 1] = True
    origins = np.array([[0.5, 1.5, 1.5], [-2.0, 1.5, 1.5], [6.5, 1.5, 1.5]])  # inside, outside, in the voxel itself
    hits = first_hits(occupied, origins, np.array([[1.0, 0.0, 0.0]]))
    assert hits.is_hit.all() and hits.voxels.tolist() == [[[6, 1, 1]]] * 3
    assert hits.enters[:, 0].tolist() == [5.5, 8.0, 0.0]
    assert hits.leaves[:, 0].tolist() == [6.5, 9.0, 0.5]


def test_rays_that_hit_nothing_tell_where_they_leave_the_grid() -> None:
    slanted = np.array([3.0, 4.0, 0.0]) / 5  # from (0.5, 1.5): y = 4 at x = 2.375, so 2.5 / 0.8 away
    rays = np.array([[-1.0, 0.0, 0.0], slanted])
    hits = first_hits(np.zeros((10, 4, 4), dtype=bool), np.array([[0.5, 1.5, 1.5], [-3.0, -3.0, -3.0]]), rays)
    assert not hits.is_hit.any()
    assert hits.voxels.tolist() == [[[0, 1, 1], [2, 3, 1]], [[-1, -1, -1]] * 2]  # the second origin looks past the grid
    assert hits.leaves[0].tolist() == [0.5, pytest.approx(3.125)]
    assert hits.leaves[1].tolist() == hits.enters[1].tolist() == [math.inf] * 2


def test_longer_directions_measure_in_their_length() -> None:
    occupied = np.zeros((10, 4, 4), dtype=bool)
    occupied[6, 1, 1] = True
    hits = first_hits(occupied, np.array([[0.5, 1.5, 1.5]]), np.array([[2.0, 0.0, 0.0]]))
    assert (hits.enters.item(), hits.leaves.item()) == (2.75, 3.25)


def test_only_the_walk_needs_numba() -> None:
    """Everything else in `schemas` stays light: it is imported wherever a shard or a record is read."""
    code = (
        "import importlib, pkgutil, sys, schemas\n"
        "for module in pkgutil.iter_modules(schemas.__path__):\n"
        "    if module.name != 'voxels':\n"
        "        importlib.import_module('schemas.' + module.name)\n"
        "print('numba' in sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
