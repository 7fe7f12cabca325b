"""Which keyframes are prepared, in which order, and which splits hold them; the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipelines.prepare.source import Keyframe
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError


def assign_splits(
    dataset: DatasetSpec,
    tokens_of: Mapping[str, Sequence[str]],
    official: Callable[[], Mapping[str, Sequence[str]]],
) -> list[Keyframe]:
    """All keyframes of all scenes that some split names, ordered by scene name, then time.

    Args:
        dataset: the entry of `datasets.yaml`.
        tokens_of: tokens of each scene's keyframes, in order of time.
        official: gives the format's official splits and their scenes; called only if an entry names one.

    Raises:
        ConfigError: a split names a scene that is not there, none of an official split is there, or `train` shares
            scenes with `val` or `test`.
    """
    members = {
        name: _scenes_of(dataset, name, split, sorted(tokens_of), official) for name, split in dataset.splits.items()
    }
    _refuse_shared(dataset, members)
    used = sorted({scene for scenes in members.values() for scene in scenes})
    holders = {scene: [name for name, scenes in members.items() if scene in scenes] for scene in used}
    return [
        Keyframe(token, scene, frame, tuple(name for name in holders[scene] if _is_kept(dataset.splits[name], frame)))
        for scene in used
        for frame, token in enumerate(tokens_of[scene])
    ]


def _refuse_shared(dataset: DatasetSpec, members: Mapping[str, frozenset[str]]) -> None:
    """Refuses an evaluation on scenes of the training: neighbouring keyframes show the same street."""
    for evaluation in ("val", "test"):
        shared = sorted(members.get("train", frozenset()) & members.get(evaluation, frozenset()))
        if shared:
            raise ConfigError(
                f"dataset '{dataset.name}': splits 'train' and '{evaluation}' share {len(shared)} of "
                f"{len(members[evaluation])} scenes ({_shorten(shared)}), so scores would say nothing. Give them "
                "different scenes in datasets.yaml, or the split that is a part of `train` another name."
            )


def _scenes_of(
    dataset: DatasetSpec,
    name: str,
    split: SplitSpec,
    present: Sequence[str],
    official: Callable[[], Mapping[str, Sequence[str]]],
) -> frozenset[str]:
    where = f"dataset '{dataset.name}', split '{name}'"
    folder = dataset.root / dataset.version
    if split.scenes is not None:
        missing = [scene for scene in split.scenes if scene not in present]
        if missing:
            raise ConfigError(
                f"{where}: scene '{missing[0]}' is not in {folder}; "
                f"scenes there: {_shorten(present)}. Correct `splits` in datasets.yaml."
            )
        return frozenset(split.scenes)
    known, wanted = official(), split.official
    if wanted is None or wanted not in known:
        raise ConfigError(f"{where}: no official split '{wanted}'; known: {', '.join(known)}")
    scenes = frozenset(known[wanted]) & frozenset(present)
    if not scenes:
        raise ConfigError(
            f"{where}: none of the {len(known[wanted])} scenes of the official split '{wanted}' "
            f"is in {folder}; scenes there: {_shorten(present)}. Name them as `scenes: [...]`."
        )
    return scenes


def _is_kept(split: SplitSpec, frame: int) -> bool:
    number, rest = divmod(frame, split.every)
    return rest == 0 and (split.limit is None or number < split.limit)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
