"""Settings of a table's rows at reduced size, and what a finished run of one says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from protoocc.ablations import ROWS, Ablation
from protoocc.checkpoint import STATE, find_checkpoint, load_state
from protoocc.config import TrainConfig
from protoocc.data import ShardSet
from protoocc.environment import read_environment
from protoocc.presets import read_preset
from protoocc.run_facts import read_run
from protoocc.run_folder import check_same
from protoocc.run_scores import KeptScores, read_scores
from protoocc.run_state import check_trained_on
from schemas.errors import CheckpointError, ConfigError, DataError
from schemas.runs import EVALUATION, RunFolder
from schemas.settings import Frozen

_DECIDED: Final = ("seed", "schedule.steps", "schedule.epochs", "data.split")
"""Fields that belong to the table as a whole."""


class Figures(Frozen):
    """Shares 0..1, camera mask; null where a figure does not exist."""

    miou: float | None = Field(description="Mean IoU over the classes that are present.")
    iou: float | None = Field(description="Occupied against free.")
    things_iou: float | None = Field(description="Classes that are neither ground nor free, against all else.")


class SeedResult(Frozen):
    """What one training of a row came to."""

    seed: int = Field(description="Of the training; the world is the same for all.")
    scores: Figures = Field(description="Of the network.")
    frequent_class: Figures = Field(description="Of the most frequent class of each voxel, on the same samples.")
    train_seconds: float = Field(description="Wall time of all steps.")
    commits: tuple[str, ...] = Field(description="Code that trained and code that scored.")
    hardware: str = Field(description="What it was trained on.")


def row_config(row: Ablation, *, steps: int, seed: int, changes: Sequence[str] = ()) -> TrainConfig:
    """Settings of one training.

    Args:
        row: its changes come last, so that it means what it says.
        steps: length, unless the row has its own.
        seed: of the training.
        changes: `path=value` for all rows of a table.

    Raises:
        ConfigError: an unknown field, or a value that it does not take.
    """
    own = (f"schedule.steps={row.steps or steps}", f"seed={seed}")
    return read_preset(row.preset, [*changes, *row.changes_of(row.preset), *own])


def check_changes(rows: Mapping[str, Ablation], changes: Sequence[str]) -> None:
    """Refuses changes of what the rows differ in and of what other options decide.

    Raises:
        ConfigError: one of them would be ignored.
    """
    decided = {*_DECIDED, *(change.partition("=")[0] for row in rows.values() for change in row.changes)}
    for change in changes:
        field = change.partition("=")[0]
        if any(name == field or name.startswith(f"{field}.") for name in decided):
            raise ConfigError(
                f"--set {field}: the rows of the table, --steps or --seeds decide it, and training is on `train`; "
                "leave it out"
            )


def run_name(name: str) -> str:
    """The first row of all tables with the same settings and masks as this one: they share their trainings.

    Args:
        name: key of `ROWS`, such as `table6-r4`.
    """

    def meaning(row: Ablation) -> tuple[TrainConfig, str]:
        return row_config(row, steps=1, seed=0), row.masks

    wanted = meaning(ROWS[name])
    return next(other for other, row in ROWS.items() if row.preset == ROWS[name].preset and meaning(row) == wanted)


def check_settings(run: Path, config: TrainConfig) -> None:
    """Refuses to go on with a row that was trained with other settings.

    Raises:
        ConfigError: it was; says in what they differ and what to do.
        DataError: its configuration is damaged.
    """
    path = RunFolder(run).config
    if not path.is_file():
        return
    try:
        check_same(path, config, resume=True)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\nAll rows of a table share their settings: give the options that it was begun with, or a new "
            "folder with --out and the same --data."
        ) from error


def is_trained(run: Path, config: TrainConfig, shards: ShardSet) -> bool:
    """Whether all steps of a run are done; where the last checkpoint is damaged, some are to be made again.

    Raises:
        ConfigError: they were done on other shards.
    """
    if RunFolder(run).last_step() < (config.schedule.steps or 0) or not RunFolder(run).config.is_file():
        return False
    checkpoint = find_checkpoint(run)
    try:
        check_trained_on(checkpoint, load_state(checkpoint / STATE), shards)
    except CheckpointError:
        return False
    return True


def is_scored(run: Path, split: str) -> bool:
    """Whether a finished run keeps scores of its last checkpoint on this split.

    Raises:
        DataError: the kept scores are damaged.
    """
    kept = read_scores(run)
    if kept is None or kept.facts.get("split") != split:
        return False
    return Path(str(kept.facts.get("checkpoint"))).name == find_checkpoint(run).name


def read_result(run: Path, seed: int) -> SeedResult:
    """What a trained and scored run came to.

    Raises:
        DataError: it keeps no scores, or one of its files is damaged.
    """
    kept = read_scores(run)
    if kept is None:
        raise DataError(f"{run / EVALUATION} is missing. Run the same command again to make it.")
    computed_on = read_environment(run)
    code = {computed_on.get("protoocc", "unknown"), str(kept.facts.get("code_version", "unknown"))}
    return SeedResult(
        seed=seed,
        scores=_figures(kept, "model"),
        frequent_class=_figures(kept, "frequent_class"),
        train_seconds=read_run(run).seconds,
        commits=tuple(sorted(code)),
        hardware=_hardware(computed_on),
    )


def _figures(kept: KeptScores, predictor: str) -> Figures:
    row: Mapping[str, Any] = kept.rows.get(predictor, {})
    return Figures(miou=row.get("miou"), iou=row.get("iou"), things_iou=row.get("things_iou"))


def _hardware(computed_on: Mapping[str, str]) -> str:
    gpus = computed_on.get("GPUs", "none")
    device = computed_on.get("CPU", "unknown") if gpus == "none" else gpus
    return f"{device}; torch {computed_on.get('torch', 'unknown')}"
