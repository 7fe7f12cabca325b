"""Which keyframes are prepared, in which order, and which splits hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.prepare.raw_tables import Row, dangling_message, read_table
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True)
class Keyframe:
    """One keyframe of the plan, before its sensors are read."""

    token: str
    scene: str
    frame: int
    """Number within the scene, in order of time."""
    splits: tuple[str, ...]
    """Names of the splits that hold it; empty when `every` or `limit` leave it out: it is only a neighbour then."""


def plan_keyframes(dataset: DatasetSpec, folder: Path) -> list[Keyframe]:
    """All keyframes of all scenes that some split names, ordered by scene name, then time.

    Args:
        dataset: the entry of `datasets.yaml`.
        folder: folder of the tables.

    Raises:
        ConfigError: a split names a scene that is not there, or none of an official split is there.
        DataError: a sample's scene does not exist.
    """
    frames_of = _frames_by_scene(folder)
    members = {name: _scenes_of(dataset, name, split, sorted(frames_of)) for name, split in dataset.splits.items()}
    used = sorted({scene for scenes in members.values() for scene in scenes})
    return [
        Keyframe(token, scene, frame, _splits_of(dataset.splits, members, scene, frame))
        for scene in used
        for frame, token in enumerate(frames_of[scene])
    ]


def _frames_by_scene(folder: Path) -> dict[str, list[str]]:
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


def _scenes_of(dataset: DatasetSpec, name: str, split: SplitSpec, present: Sequence[str]) -> list[str]:
    where = f"dataset '{dataset.name}', split '{name}'"
    if split.scenes is not None:
        missing = [scene for scene in split.scenes if scene not in present]
        if missing:
            raise ConfigError(
                f"{where}: scene '{missing[0]}' is not in {dataset.root / dataset.version}; "
                f"scenes there: {_shorten(present)}. Correct `splits` in datasets.yaml."
            )
        return sorted(set(split.scenes))
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    if split.official not in official:
        raise ConfigError(f"{where}: no official split '{split.official}'; known: {', '.join(official)}")
    scenes = sorted(set(official[split.official]) & set(present))
    if not scenes:
        raise ConfigError(
            f"{where}: none of the {len(official[split.official])} scenes of the official split '{split.official}' "
            f"is in {dataset.root / dataset.version}; scenes there: {_shorten(present)}. Name them as `scenes: [...]`."
        )
    return scenes


def _splits_of(
    splits: Mapping[str, SplitSpec], members: Mapping[str, Sequence[str]], scene: str, frame: int
) -> tuple[str, ...]:
    return tuple(name for name, split in splits.items() if scene in members[name] and _is_kept(split, frame))


def _is_kept(split: SplitSpec, frame: int) -> bool:
    number, rest = divmod(frame, split.every)
    return rest == 0 and (split.limit is None or number < split.limit)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
