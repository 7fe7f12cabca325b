"""Fewer and more cameras than nuScenes has, from tables to training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipelines.stage import Runtime
from protoocc.presets import read_preset
from protoocc.trainer import train
from protoocc.training_report import StepReport
from schemas.datasets import DatasetSpec
from tests.pipelines.test_prepare_rigs import add_camera, change_entry, pack_all
from tests.pipelines.world_edits import link_tree

TWO = ("CAM_BACK_LEFT", "CAM_FRONT")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_other_rigs_are_trained(count: int, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    root = link_tree(world_dataset.root, tmp_path / "copy")
    dataset = world_dataset.model_copy(update={"root": root, "work": tmp_path / "work"})
    cameras = TWO
    if count == 8:
        add_camera(dataset, "CAM_FRONT", "front/narrow")
        add_camera(dataset, "CAM_BACK", "rear.fisheye")
        cameras = ("rear.fisheye", *dataset.cameras, "front/narrow")
    pack_all(change_entry(dataset, cameras=cameras), sync_runtime)
    config = read_preset("demo", ["schedule.steps=2", "schedule.warmup_steps=1", "data.batch_size=1"])
    rows = list[StepReport]()
    train(config, dataset.work / "shards", tmp_path / "run", on_step=rows.append)
    assert [math.isfinite(row.losses["total"]) for row in rows] == [True, True]
