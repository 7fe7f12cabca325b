"""Hits against passes: the share by hand, and what it does to the labels of a generated and a real keyframe."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy import LIDAR_PRESETS, ImageLabels
from pipelines.occupancy.check import Check, check_keyframe
from pipelines.occupancy.compare import compare_occupancy
from pipelines.occupancy.inputs import source_options
from pipelines.occupancy.outvoted import outvoted_voxels
from pipelines.occupancy.scene import label_scene, read_scene
from pipelines.occupancy.tuning import EvidenceConfig
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.images import ImageSpec
from schemas.records import SampleRecord, read_index, read_records
from schemas.settings import override

LIDAR = np.array([0.5, 0.5, 0.5])


def outvoted(passes: int, hits: int, points: int, config: EvidenceConfig) -> bool:
    """Whether voxel 5 of a row of ten is outvoted: so many rays end in voxel 8, so many in 5."""
    occupied, counts = np.zeros((10, 1, 1), dtype=bool), np.zeros((10, 1, 1), dtype=np.int32)
    occupied[[5, 8]] = True
    counts[5] = points
    returns = np.array([[8.5, 0.5, 0.5]] * passes + [[5.5, 0.5, 0.5]] * hits).reshape(-1, 3)
    freed = outvoted_voxels(occupied, counts, LIDAR, returns, config)
    assert not np.delete(freed, 5).any()  # neither free voxels on the way nor the one behind, which no ray passes
    return bool(freed[5, 0, 0])


@pytest.mark.parametrize(
    ("passes", "hits", "freed"),
    [(1, 0, False), (2, 0, False), (3, 0, True), (6, 2, False), (8, 2, False), (9, 2, True), (0, 0, False)],
)
def test_the_share_of_hits_by_hand(passes: int, hits: int, freed: bool) -> None:
    # nothing accumulated: prior 1 * (1 + ln 1) = 1; 1 / 3 > 0.25, 1 / 4 is not; (2 + 1) / (3 + 8) > 0.25, 3 / 12 is not
    assert outvoted(passes, hits, 0, EvidenceConfig(ratio=0.25, prior_hits=1.0, ignore_end_voxels=0.0)) == freed


def test_points_of_other_sweeps_are_a_prior() -> None:
    # 19 points: 1 + ln 20 = 3.996 hits; at a ratio of 0.25 three times as many passes outvote them: 11.99
    config = EvidenceConfig(ratio=0.25, prior_hits=1.0, ignore_end_voxels=0.0)
    assert 1 + math.log(20) == pytest.approx(3.996, abs=1e-3)
    assert not outvoted(11, 0, 19, config) and outvoted(12, 0, 19, config)


def test_rays_that_end_close_behind_are_no_passes() -> None:
    # the middle of voxel 5 is 3 voxels before the hits in the middle of voxel 8
    assert outvoted(100, 0, 0, EvidenceConfig(ignore_end_voxels=3.0))
    assert not outvoted(100, 0, 0, EvidenceConfig(ignore_end_voxels=3.1))


def test_nothing_is_outvoted_at_a_ratio_of_zero() -> None:
    assert not outvoted(1000, 0, 0, EvidenceConfig(ratio=0.0, prior_hits=0.1, ignore_end_voxels=0.0))


Labels = dict[str, np.ndarray]


def records_of(dataset: DatasetSpec, scene: str) -> list[SampleRecord]:
    folder = dataset.work / "records"
    return [record for record in read_records(folder, read_index(folder)) if record.scene == scene]


def labels_by_preset(dataset: DatasetSpec, records: list[SampleRecord], wanted: list[int]) -> dict[str, list[Labels]]:
    """Labels of some keyframes with and without the rule; the sweeps are read once."""
    accumulated = read_scene(dataset, LIDAR_PRESETS["default"], records, dataset.work / "records", drop_broken=False)
    found = {}
    for name in ("default", "evidence"):
        scene = replace(accumulated.scene, config=LIDAR_PRESETS[name])
        found[name] = [dict(labels) for _, labels, _ in label_scene(replace(accumulated, scene=scene), records, wanted)]
    return found


def ratio_to_the_floor(
    dataset: DatasetSpec, records: list[SampleRecord], wanted: list[int], labels: list[Labels]
) -> float:
    """Mean absolute error of the depth along the keyframes' own rays over that of the voxels of their returns."""
    checks = [
        check_keyframe(dataset, records[row], part["semantics"], row) for row, part in zip(wanted, labels, strict=True)
    ]
    check = sum(checks, Check())
    return check.depth.absolute_m / check.depth_floor.absolute_m


def test_what_is_freed_was_occupied_and_seen(world_dataset: DatasetSpec, prepared: Path) -> None:
    """Two keyframes with two sweeps: few points, so that rays have much to say."""
    records = records_of(world_dataset, "synth-0000")
    labels = labels_by_preset(world_dataset, records, [1])
    (before,), (after,) = labels["default"], labels["evidence"]
    changed = before["semantics"] != after["semantics"]
    assert 500 < changed.sum() < 4000
    assert (after["semantics"][changed] == OCC3D.free).all() and (after["mask_lidar"][changed] == 1).all()
    assert (after["mask_camera"] <= after["mask_lidar"]).all()
    ratios = {name: ratio_to_the_floor(world_dataset, records, [1], parts) for name, parts in labels.items()}
    assert ratios["evidence"] < min(1.15, 0.9 * ratios["default"])
    with np.load(world_dataset.root / "gts" / records[1].scene / records[1].token / "labels.npz") as file:
        truth = dict(file)
    ious = [compare_occupancy(part, truth, OCC3D)["occupied_iou"] for part in (before, after)]
    assert ious[1] > ious[0] - 0.06, (ious, ratios)


def test_the_preset_is_a_word_of_the_command_line() -> None:
    evidence = LIDAR_PRESETS["evidence"]
    assert source_options(evidence, "nuscenes") == "--source lidar --thresholds evidence"
    changed = override(evidence, ["evidence.ratio=0.3"])
    assert changed.evidence == EvidenceConfig(ratio=0.3)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        (["visibility=cameras"], "--source lidar --set visibility=cameras"),
        (["free_above=3"], "--source lidar --set free_above=3"),
        (['image_labels={"folder": "images"}'], "--source lidar --image-labels images"),
        (['image_labels={"folder": "images", "min_rays": 5}'], None),
    ],
)
def test_the_options_of_changed_settings_are_read_back(changes: list[str], options: str | None) -> None:
    """Also of a field that is not stored while it has its default, which is not that of the preset."""
    preset = LIDAR_PRESETS["semantickitti"]
    config = override(preset, changes)
    words = source_options(config, "semantickitti")
    assert options is None or words == options
    given = dict(zip(shlex.split(words)[::2], shlex.split(words)[1::2], strict=True))
    if "--image-labels" in given:
        preset = preset.model_copy(update={"image_labels": ImageLabels(folder=given["--image-labels"])})
    assert override(preset, [given["--set"]] if "--set" in given else []) == config


def real_scene(root: Path, work: Path, scene: str) -> DatasetSpec:
    dataset = DatasetSpec(
        name="real", format="nuscenes", root=root, version="v1.0-mini", work=work,
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)), splits={"train": SplitSpec(scenes=(scene,))},
    )  # fmt: skip
    prepare(dataset, work, Runtime(scheduler=Scheduler(kind="sync")))
    return dataset


@pytest.mark.slow
def test_real_labels_come_near_the_floor(real_nuscenes: Path, tmp_path: Path) -> None:
    """Every fourth of 41 keyframes without sweeps (measured: 1.68 and 1.07)."""
    dataset = real_scene(real_nuscenes, tmp_path, "scene-0916")
    records, wanted = records_of(dataset, "scene-0916"), list(range(0, 41, 4))
    labels = labels_by_preset(dataset, records, wanted)
    assert ratio_to_the_floor(dataset, records, wanted, labels["default"]) > 1.5
    assert ratio_to_the_floor(dataset, records, wanted, labels["evidence"]) <= 1.15
