"""The training loop: step, log, save, resume. A resumed run gives the bytes of an uninterrupted one on a CPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from protoocc.batch import Batch
from protoocc.checkpoint import (
    STATE,
    WEIGHTS,
    check_sums,
    list_checkpoints,
    load_state,
    load_weights,
    save_checkpoint,
    set_aside,
)
from protoocc.compatibility import check_training
from protoocc.config import TrainConfig
from protoocc.data import WORKERS, EpochSampler, ShardSet, make_loader, open_shards, reader_deaths
from protoocc.hosts import build_network
from protoocc.inference import default_device, reader_for
from protoocc.losses import choose_voxels, compute_losses
from protoocc.optimizer import lr_factor, make_optimizer, set_learning_rate
from protoocc.run_checks import check_labels_are_seen, check_warm_up, count_steps, describe_missing_earlier
from protoocc.run_folder import RunLog, open_run, read_metrics
from protoocc.training_report import StepReport, TrainSummary, finite_numbers, mean_losses
from protoocc.weights import fill, reread_weights
from schemas.errors import CheckpointError, ConfigError
from schemas.lock import folder_lock
from schemas.runs import CHECKPOINTS

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    shards: Path,
    out: Path,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] = lambda report: None,
    device: torch.device | None = None,
) -> TrainSummary:
    """Trains one network on one process and stores it in a run folder.

    Args:
        config: complete settings; the class table of the shards takes the place of its own.
        shards: folder of `protoocc pack`.
        out: run folder: config.json, metrics.jsonl, tensorboard/, checkpoints/.
        resume: continue from the last checkpoint in ``out``, if there is one.
        on_step: called after each step.
        device: where to compute; a GPU if there is one.

    Raises:
        ConfigError: settings do not fit the shards, the device or the run folder, or warm-up takes the whole run.
        DataError: shards are missing or damaged, no voxel of the split is seen and labelled, or the disk is full.
        CheckpointError: no checkpoint to resume from is whole, or the weights to start from do not fit.
        StageError: a loss or gradient is not finite (names the samples), or a process that reads ahead died.
        SetupError: shared memory is too small for `data.workers`.
    """
    started = time.monotonic()
    device = device or default_device()
    split = open_shards(shards, config.data.split)
    config = config.model_copy(update={"classes": split.dataset.classes, "image_shape": split.dataset.image_shape})
    check_training(config, split)
    check_warm_up(config, len(split.samples))
    _check_split(config, split)
    with folder_lock(out), _reproducible(config.seed, device), reader_deaths(WORKERS):
        open_run(out, config, resume=resume)
        run = _Run(config, split, device)
        if resume:
            run.restore(out / CHECKPOINTS)
        if run.step == 0 and config.weights is not None:
            fill(run.model, reread_weights(config.weights))
        checkpoint = run.loop(out, on_step)
    rows = read_metrics(out)
    tenth = max(len(rows) // 10, 1)
    seconds = time.monotonic() - started
    logger.info("trained %d steps on %d samples in %.1f s", run.step, len(split.samples), seconds)
    return TrainSummary(
        checkpoint, run.step, len(split.samples), seconds, mean_losses(rows[:tenth]), mean_losses(rows[-tenth:])
    )


class _Run:
    """What a run carries from step to step."""

    def __init__(self, config: TrainConfig, shards: ShardSet, device: torch.device) -> None:
        self.config, self.shards, self.device = config, shards, device
        self.steps = count_steps(config, len(shards.samples))
        self.step = 0
        self.model = build_network(config.model).to(device).train()
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.sampler = EpochSampler(len(shards.samples), config.data.batch_size, seed=config.seed)

    def loop(self, out: Path, on_step: Callable[[StepReport], None]) -> Path:
        """Runs to the last step; returns the last checkpoint."""
        dataset = reader_for(self.config.model, self.shards)
        workers = self.config.data.workers
        loader = make_loader(dataset, self.sampler, workers=workers, pin_memory=self.device.type == "cuda")
        log = RunLog(out, first_step=self.step + 1)
        try:
            batches = iter(loader) if self.step < self.steps else iter(())
            while self.step < self.steps:
                started = time.perf_counter()
                lr = self._learning_rate()
                losses = self._train_step(next(batches))
                report = StepReport(self.step, self.steps, lr, losses, time.perf_counter() - started)
                log.write(self.step, {"lr": lr, **losses, "seconds": report.seconds})
                on_step(report)
                if self.step % self.config.checkpoint_every == 0 or self.step == self.steps:
                    self._save(out / CHECKPOINTS)
        finally:
            log.close()
            dataset.close()
        return list_checkpoints(out / CHECKPOINTS)[-1]

    def restore(self, folder: Path) -> None:
        """Continues at the last whole checkpoint of a run; without one the run starts.

        A damaged one is set aside and the one before is used: the steps between them are computed again.
        """
        found = list_checkpoints(folder)
        for checkpoint in reversed(found):
            try:
                self._load(checkpoint)
            except CheckpointError as error:
                if checkpoint == found[0]:
                    raise CheckpointError(f"{error}\nRemove {checkpoint} to start this run again.") from error
                logger.warning("%s\nIt is now %s; the checkpoint before is used", error, set_aside(checkpoint).name)
            else:
                logger.info("resumed at step %d of %d from %s", self.step, self.steps, checkpoint)
                return

    def _load(self, checkpoint: Path) -> None:
        """Takes weights, optimiser and places from a checkpoint.

        Raises:
            CheckpointError: it is damaged or not of this run.
            ConfigError: it was trained on other shards.
        """
        check_sums(checkpoint)
        state = load_state(checkpoint / STATE)
        if state.get("shards", self.shards.fingerprint) != self.shards.fingerprint:
            raise ConfigError(
                f"{checkpoint} was trained on other shards than {self.shards.folder}; choose another run folder"
            )
        load_weights(self.model, checkpoint / WEIGHTS)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.sampler.load_state_dict(state["sampler"])
            self.step = int(state["step"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["rng_cuda"] is not None:
                torch.cuda.set_rng_state(state["rng_cuda"], self.device)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint / STATE} is damaged: no state of this run ({error!r})") from error

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        tokens = batch.tokens
        batch = batch.to(self.device)
        choice = choose_voxels(batch, self.config.loss, self.config.classes)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            output = self.model(batch, choice.all)
        losses = compute_losses(output, batch, choice, self.config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["total"])
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        numbers = finite_numbers({**losses, "gradient_norm": norm}, tokens, self.step + 1)
        self.optimizer.step()
        self.sampler.advance()
        self.step += 1
        return numbers

    def _learning_rate(self) -> float:
        lr = self.config.optimizer.lr * lr_factor(self.step, self.steps, self.config.schedule)
        set_learning_rate(self.optimizer, lr)
        return lr

    def _save(self, folder: Path) -> None:
        state = {
            "step": self.step,
            "shards": self.shards.fingerprint,
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        save_checkpoint(folder, self.step, weights=self.model.state_dict(), config=self.config, state=state)


def _check_split(config: TrainConfig, split: ShardSet) -> None:
    """Refuses labels that teach nothing, and tells which earlier frames the split lacks."""
    dataset = reader_for(config.model, split)
    try:
        check_labels_are_seen(dataset)
        if (missing := describe_missing_earlier(dataset)) is not None:
            logger.warning(missing)
    finally:
        dataset.close()


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch for a run and gives the caller's random state back; on a CPU every operation is deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(device.type == "cpu" or before)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
