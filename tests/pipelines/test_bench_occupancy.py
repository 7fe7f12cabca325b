"""The bench of labels: its bare traversal against the readable one, and its sums on the tiny world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.bench_occupancy import bench_occupancy
from pipelines.occupancy import LidarConfig
from pipelines.raycast import count_steps, first_hits, traverse
from schemas.datasets import DatasetSpec


def test_bare_traversal_passes_the_voxels_of_the_readable_one() -> None:
    rng = np.random.default_rng(3)
    shape = (9, 7, 4)
    origins, ends = rng.uniform(-2, 11, (5, 3)), rng.uniform(-2, 11, (200, 3))
    origin_of = rng.integers(0, 5, 200)
    expected = [len(traverse(origins[o], end, shape)) for o, end in zip(origin_of, ends, strict=True)]
    assert count_steps(np.zeros(shape, dtype=bool), origins, origin_of, ends) == sum(expected) > 200
    wall = np.zeros(shape, dtype=bool)
    wall[4] = True
    ray, origin = np.array([[1.0, 0.0, 0.0]]), np.array([0.5, 0.5, 0.5])
    assert count_steps(wall, origin[None], np.zeros(1, np.int64), origin + 100 * ray) == 5  # x = 0 to 4
    assert first_hits(wall, origin, ray)[0].tolist() == [[4, 0, 0]]


@pytest.mark.slow
def test_steps_add_up(world_dataset: DatasetSpec, prepared: Path, tmp_path: Path) -> None:
    result = bench_occupancy(world_dataset, prepared, tmp_path, LidarConfig())
    assert result.keyframes == 2 and result.sweeps_per_keyframe == 2.0  # 3 and 1: none before the first keyframe
    assert all(seconds >= 0 for seconds in result.seconds_per_keyframe.values())
    steps = result.seconds_per_keyframe
    assert {"read and thin out sweeps", "LiDAR rays", "camera rays", "the rest"} <= set(steps)
    assert min(steps[name] for name in ("read and thin out sweeps", "LiDAR rays", "camera rays", "votes")) > 0
    assert result.total == pytest.approx(sum(steps.values()))
    assert 0 < result.traversal_seconds_per_keyframe < result.total
    assert result.million_steps_per_keyframe > 1
    assert 0.1 < result.peak_memory_gb < 3
