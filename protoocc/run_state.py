"""Where a run stands: its step, its place in the data, its best scores; from and to checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protoocc.checkpoint import (
    STATE,
    WEIGHTS,
    OtherNetworkError,
    check_fit,
    check_sums,
    link_best,
    list_checkpoints,
    load_state,
    read_safetensors,
    remove_old,
    save_checkpoint,
    set_aside,
)
from protoocc.config import TrainConfig
from protoocc.data import EpochSampler, ShardSet
from protoocc.train_step import Stepper
from schemas.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


class RunState:
    """What a run carries from step to step. It holds no random state: every draw starts from the run's seed."""

    def __init__(self, config: TrainConfig, shards: ShardSet, stepper: Stepper, sampler: EpochSampler) -> None:
        """Starts before the first step."""
        self.config, self.shards, self.stepper, self.sampler = config, shards, stepper, sampler
        self.step = 0
        self.best_step: int | None = None
        self.best_miou: float | None = None

    def advance(self) -> None:
        """Counts one optimiser step."""
        self.sampler.advance()
        self.step += 1

    def note_scores(self, scores: dict[str, float]) -> None:
        """Remembers the step whose mIoU is the highest so far; of equal ones the first."""
        miou = scores.get("miou")
        if miou is not None and (self.best_miou is None or miou > self.best_miou):
            self.best_step, self.best_miou = self.step, miou

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, points at the best one and removes those that are no longer wanted.

        Raises:
            DataError: the disk is full or the folder cannot be written.
        """
        state = {
            "step": self.step,
            "shards": self.shards.fingerprint,
            "sampler": self.sampler.state_dict(),
            "best_step": self.best_step,
            "best_miou": self.best_miou,
            **self.stepper.state_dict(),
        }
        save_checkpoint(folder, self.step, weights=self.stepper.weights(), config=self.config, state=state)
        self._tidy(folder)

    def _tidy(self, folder: Path) -> None:
        """Points at the best checkpoint and keeps it with the last ones."""
        if self.best_step is not None:
            link_best(folder, self.best_step)
        remove_old(folder, self.config.keep_last, self.best_step)

    def restore(self, folder: Path) -> None:
        """Continues at the last whole checkpoint of a run; without one the run starts.

        A damaged one is set aside and the one before is used: the steps between them are computed again.

        Raises:
            CheckpointError: none of them is whole.
            OtherNetworkError: the last one is whole and of another network or release.
            ConfigError: they were trained on other shards.
        """
        ranks = self.stepper.ranks
        whole = ranks.first(lambda: self._restore_last(folder))
        chosen = ranks.gather(None if whole is None else whole.name)[0]
        if chosen is not None and not ranks.is_first:
            self._load(folder / chosen)

    def _restore_last(self, folder: Path) -> Path | None:
        found = list_checkpoints(folder)
        for checkpoint in reversed(found):
            try:
                self._load(checkpoint)
            except OtherNetworkError:
                raise
            except CheckpointError as error:
                if checkpoint == found[0]:
                    raise CheckpointError(f"{error}\nRemove {checkpoint} to start this run again.") from error
                logger.warning("%s\nIt is now %s; the checkpoint before is used", error, set_aside(checkpoint).name)
            else:
                self._tidy(folder)  # which a kill may have left undone
                logger.info("resumed at step %d from %s", self.step, checkpoint)
                return checkpoint
        return None

    def _load(self, checkpoint: Path) -> None:
        """Takes weights, optimiser and places from a checkpoint.

        Raises:
            CheckpointError: it is damaged.
            OtherNetworkError: it is not of this network.
            ConfigError: it was trained on other shards.
        """
        check_sums(checkpoint)
        state = load_state(checkpoint / STATE)
        check_trained_on(checkpoint, state, self.shards)
        weights = read_safetensors(checkpoint / WEIGHTS)
        check_fit(checkpoint / WEIGHTS, self.stepper.model, weights)
        try:
            self.stepper.load_state_dict(state, weights)
            self.sampler.load_state_dict(state["sampler"])
            self.step = int(state["step"])
            self.best_step, self.best_miou = state.get("best_step"), state.get("best_miou")
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint / STATE} is damaged: no state of this run ({error!r})") from error


def check_trained_on(checkpoint: Path, state: Mapping[str, Any], shards: ShardSet) -> None:
    """Compares the shards of a checkpoint with these.

    Raises:
        ConfigError: they are others.
    """
    if state.get("shards", shards.fingerprint) != shards.fingerprint:
        raise ConfigError(f"{checkpoint} was trained on other shards than {shards.folder}; choose another run folder")
