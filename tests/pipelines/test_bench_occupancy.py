"""The bench of labels: its sums on the tiny world."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.bench_occupancy import bench_occupancy
from pipelines.occupancy import LidarConfig
from schemas.datasets import DatasetSpec


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
