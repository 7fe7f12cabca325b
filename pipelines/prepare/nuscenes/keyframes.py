"""Keyframes of nuScenes tables: scenes by name, samples in order of time, the devkit's official splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.prepare.nuscenes.raw_tables import Row, dangling_message, read_table
from pipelines.prepare.source import Keyframe
from pipelines.prepare.splits import assign_splits
from schemas.datasets import DatasetSpec
from schemas.errors import DataError


def plan_keyframes(dataset: DatasetSpec, folder: Path) -> list[Keyframe]:
    """All keyframes of all scenes that some split names, ordered by scene name, then time.

    Args:
        dataset: the entry of `datasets.yaml`.
        folder: folder of the tables.

    Raises:
        ConfigError: a split names a scene that is not there, or none of an official split is there.
        DataError: a sample's scene does not exist.
    """
    return assign_splits(dataset, _tokens_by_scene(folder), _official_splits)


def _official_splits() -> Mapping[str, Sequence[str]]:
    from nuscenes.utils.splits import create_splits_scenes

    splits: Mapping[str, Sequence[str]] = create_splits_scenes()
    return splits


def _tokens_by_scene(folder: Path) -> dict[str, list[str]]:
    name_of = {row["token"]: str(row["name"]) for row in read_table(folder, "scene")}
    samples: dict[str, list[Row]] = {name: [] for name in name_of.values()}
    for row in read_table(folder, "sample"):
        if row.get("scene_token") not in name_of:
            source = ("sample", row["token"], "scene_token")
            raise DataError(dangling_message(folder, source, ("scene", row.get("scene_token"))))
        samples[name_of[row["scene_token"]]].append(row)
    return {
        scene: [row["token"] for row in sorted(rows, key=lambda row: (row["timestamp"], row["token"]))]
        for scene, rows in samples.items()
    }
