"""Keyframes of nuScenes tables: scenes by name, samples in order of time, the devkit's official splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from pipelines.prepare.nuscenes.raw_tables import Row, dangling_message, read_table
from pipelines.prepare.source import Keyframe
from pipelines.prepare.splits import assign_splits
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.outside import shorten
from schemas.outside.limits import LATEST_US

SHORTEST_STEP_S: Final = 0.01
LONGEST_STEP_S: Final = 100.0
"""Keyframes of a scene lie so far apart, in the middle of all steps."""


def plan_keyframes(dataset: DatasetSpec, folder: Path) -> list[Keyframe]:
    """All keyframes of all scenes that some split names, ordered by scene name, then time.

    Args:
        dataset: the entry of `datasets.yaml`.
        folder: folder of the tables.

    Raises:
        ConfigError: a split names a scene that is not there, or none of an official split is there.
        DataError: a sample's scene does not exist, scenes share a name, or timestamps give no order or no microseconds.
    """
    return assign_splits(dataset, _tokens_by_scene(folder), _official_splits)


def _official_splits() -> Mapping[str, Sequence[str]]:
    from nuscenes.utils.splits import create_splits_scenes

    splits: Mapping[str, Sequence[str]] = create_splits_scenes()
    return splits


def _tokens_by_scene(folder: Path) -> dict[str, list[str]]:
    name_of = _scene_names(folder)
    samples: dict[str, list[Row]] = {name: [] for name in name_of.values()}
    for row in read_table(folder, "sample"):
        if not isinstance(row.get("scene_token"), str) or row["scene_token"] not in name_of:
            source = ("sample", row["token"], "scene_token")
            raise DataError(dangling_message(folder, source, ("scene", row.get("scene_token"))))
        samples[name_of[row["scene_token"]]].append(row)
    path = folder / "sample.json"
    return {scene: [row["token"] for row in _in_time(path, scene, rows)] for scene, rows in samples.items()}


def _scene_names(folder: Path) -> dict[str, str]:
    """Name of each scene by its token; a name belongs to one scene."""
    path = folder / "scene.json"
    tokens: dict[str, str] = {}
    for row in read_table(folder, "scene"):
        name = row.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: row '{row['token']}' has the name {shorten(name)}, expected a text. Correct it.")
        if name in tokens:
            raise DataError(
                f"{path}: rows '{tokens[name]}' and '{row['token']}' are both called '{name}'. Splits and labels go by "
                "the name of a scene; rename one of them."
            )
        tokens[name] = row["token"]
    return {token: name for name, token in tokens.items()}


def _in_time(path: Path, scene: str, rows: Sequence[Row]) -> list[Row]:
    """Samples of a scene in order of time, which must be told apart and be microseconds."""
    for row in rows:
        if not is_time(row.get("timestamp")):
            raise DataError(
                f"{path}: row '{row['token']}' has timestamp {shorten(row.get('timestamp'))}, expected a whole number "
                "of microseconds since 1970. Correct the row (seconds times 1,000,000)."
            )
    ordered = sorted(rows, key=lambda row: (row["timestamp"], row["token"]))
    steps = []
    for row, later in pairwise(ordered):
        steps.append(later["timestamp"] - row["timestamp"])
        if steps[-1] == 0:
            raise DataError(
                f"{path}: rows '{row['token']}' and '{later['token']}' of {scene} have the same timestamp "
                f"{row['timestamp']}, so their order is unknown. Correct one, or remove the sample."
            )
    middle_s = sorted(steps)[len(steps) // 2] / 1e6 if steps else SHORTEST_STEP_S
    if not SHORTEST_STEP_S <= middle_s <= LONGEST_STEP_S:
        raise DataError(
            f"{path}: the samples of {scene} lie {middle_s:g} s apart, {SHORTEST_STEP_S:g} to {LONGEST_STEP_S:g} s are "
            "possible. Timestamps are microseconds; correct the unit."
        )
    return ordered


def is_time(value: object) -> bool:
    """Whether a value of a table is a time: a whole number of microseconds, also as a float."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LATEST_US and value % 1 == 0
    )
