"""Which keyframes a split holds, on hand-made tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.prepare.nuscenes.keyframes import plan_keyframes
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError
from schemas.images import ImageSpec


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """scene-0916 (official mini_val) with keyframes t0..t4, listed backwards; aa with one keyframe."""
    folder = tmp_path / "v1.0-hand"
    folder.mkdir()
    scenes = [{"token": "s1", "name": "scene-0916"}, {"token": "s2", "name": "aa"}]
    samples = [{"token": f"t{i}", "scene_token": "s1", "timestamp": 100_000 * i} for i in reversed(range(5))]
    samples.append({"token": "u0", "scene_token": "s2", "timestamp": 7})
    (folder / "scene.json").write_text(json.dumps(scenes))
    (folder / "sample.json").write_text(json.dumps(samples))
    return folder


def dataset(tables: Path, **splits: SplitSpec) -> DatasetSpec:
    return DatasetSpec(
        name="hand",
        format="nuscenes",
        root=tables.parent,
        version=tables.name,
        work=tables.parent / "work",
        image=ImageSpec(resize=(32, 18), crop=(0, 0, 32, 18)),
        splits=splits,
    )


def test_order_is_scene_name_then_time(tables: Path) -> None:
    plan = plan_keyframes(dataset(tables, all=SplitSpec(scenes=("scene-0916", "aa"))), tables)
    assert [(k.scene, k.frame, k.token) for k in plan] == [
        ("aa", 0, "u0"),
        *[("scene-0916", i, f"t{i}") for i in range(5)],
    ]


def test_scenes_without_split_are_left_out(tables: Path) -> None:
    plan = plan_keyframes(dataset(tables, val=SplitSpec(scenes=("aa",))), tables)
    assert [k.token for k in plan] == ["u0"]


@pytest.mark.parametrize(
    ("every", "limit", "kept"),
    [
        (1, None, [0, 1, 2, 3, 4]),
        (2, None, [0, 2, 4]),
        (2, 2, [0, 2]),
        (1, 1, [0]),
        (5, 9, [0]),
        (1, 9, [0, 1, 2, 3, 4]),
    ],
)
def test_every_and_limit(tables: Path, every: int, limit: int | None, kept: list[int]) -> None:
    spec = dataset(tables, train=SplitSpec(scenes=("scene-0916",), every=every, limit=limit))
    plan = plan_keyframes(spec, tables)
    assert len(plan) == 5, "the others stay as neighbours"
    assert [k.frame for k in plan if k.splits == ("train",)] == kept


def test_a_keyframe_may_be_in_two_splits(tables: Path) -> None:
    scenes = ("scene-0916",)
    spec = dataset(tables, train=SplitSpec(scenes=scenes), few=SplitSpec(scenes=scenes, limit=1))
    assert [k.splits for k in plan_keyframes(spec, tables)] == [("train", "few")] + [("train",)] * 4


@pytest.mark.parametrize("name", ["val", "test"])
def test_training_shares_no_scene_with_an_evaluation(name: str, tables: Path) -> None:
    splits = {"train": SplitSpec(scenes=("scene-0916", "aa"), limit=1), name: SplitSpec(scenes=("aa",))}
    with pytest.raises(ConfigError, match=rf"splits 'train' and '{name}' share 1 of 1 scenes \(aa\)"):
        plan_keyframes(dataset(tables, **splits), tables)


def test_official_split_keeps_the_scenes_that_are_there(tables: Path) -> None:
    plan = plan_keyframes(dataset(tables, val=SplitSpec(official="mini_val")), tables)
    assert {k.scene for k in plan} == {"scene-0916"}


def test_missing_scene_is_named(tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"split 'val': scene 'zz' is not in .*scenes there: aa, scene-0916"):
        plan_keyframes(dataset(tables, val=SplitSpec(scenes=("aa", "zz"))), tables)


def test_official_split_without_any_scene(tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of the 8 scenes of the official split 'mini_train'"):
        plan_keyframes(dataset(tables, val=SplitSpec(official="mini_train")), tables)


def test_unknown_official_split(tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"no official split 'mini'; known: train, val, test"):
        plan_keyframes(dataset(tables, val=SplitSpec(official="mini")), tables)


def test_sample_without_scene(tables: Path) -> None:
    (tables / "sample.json").write_text(json.dumps([{"token": "t", "scene_token": "gone", "timestamp": 1}]))
    with pytest.raises(DataError, match=r"sample.json: row 't' has scene_token 'gone', which is not in scene.json"):
        plan_keyframes(dataset(tables, val=SplitSpec(scenes=("aa",))), tables)
