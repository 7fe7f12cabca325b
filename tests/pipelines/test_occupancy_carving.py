"""What rays say about the voxels that they pass, by hand."""

from __future__ import annotations

import numpy as np

from pipelines.occupancy.carving import CarveLimits, Segments, count_passes, count_ray_steps, count_segment_steps
from schemas.voxels.walk import traverse


def passes(hit: tuple[float, ...], limits: CarveLimits, *, ground: bool = False, weight: int = 1) -> np.ndarray:
    counts = np.zeros((10, 1, 6), dtype=np.int32)
    rays = Segments(np.array([[0.5, 0.5, 0.5]]), np.array([0]), np.array([hit]))
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
    rays = Segments(np.array([[0.5, 0.5, 5.5]]), np.array([0, 0]), np.array([[9.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    count_passes(counts, rays, weights=np.ones(2, np.int32), on_ground=np.array([True, False]), limits=limits)
    # the steep ray is not on the ground: voxels z = 5..1 of column 0 count; the flat one counts for z + 0.5 - 0.5 >= 2
    assert counts[0, 0].tolist() == [0, 1, 1, 1, 1, 2]
    assert counts[1:, 0, :2].sum() == 0
    assert counts[1:, 0, 2:].sum() > 0


def test_step_counts_are_those_of_the_readable_walk() -> None:
    rng = np.random.default_rng(3)
    shape = (9, 7, 4)
    rays = Segments(rng.uniform(-2, 11, (5, 3)), rng.integers(0, 5, 200), rng.uniform(-2, 11, (200, 3)))
    pairs = zip(rays.origin_of, rays.ends, strict=True)
    expected = sum(len(traverse(rays.origins[origin], end, shape)) for origin, end in pairs)
    assert count_segment_steps(rays, shape) == expected > 200
    wall = np.zeros(shape, dtype=bool)
    wall[4] = True
    assert count_ray_steps(wall, np.array([0.5, 0.5, 0.5]), np.array([[1.0, 0.0, 0.0]])) == 5  # x = 0 to 4
