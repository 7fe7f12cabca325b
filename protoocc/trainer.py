"""The training loop: step, log, score, save, resume. A resumed run gives the bytes of an uninterrupted one on a CPU."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch

from protoocc.augment import Augmentation
from protoocc.batch import Batch
from protoocc.checkpoint import list_checkpoints
from protoocc.config import TrainConfig
from protoocc.data import WORKERS, ShardSet, make_loader, open_shards, reader_deaths
from protoocc.hosts import build_network
from protoocc.inference import default_device, reader_for
from protoocc.joint_norm import join_norms
from protoocc.optimizer import count_steps, length_at, lr_factor
from protoocc.ranks import Ranks
from protoocc.reproducible import reproducible
from protoocc.run_checks import check_run, make_sampler
from protoocc.run_folder import RunLog, open_run
from protoocc.run_rows import read_metrics
from protoocc.run_state import RunState
from protoocc.train_step import Stepper
from protoocc.training_report import StepReport, TrainSummary, mean_losses
from protoocc.validation import Validation
from protoocc.weights import fill, fill_parts, reread_weights
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
    """Trains one network and stores it in a run folder.

    In a process of a `torch.distributed` group it shares every batch with the others: all of them call this function
    with the same arguments, and process 0 writes the folder. `protoocc.launch.launch` starts such processes.

    Args:
        config: complete settings; the class table of the shards takes the place of its own.
        shards: folder of `protoocc pack`.
        out: run folder: config.json, metrics.jsonl, tensorboard/, checkpoints/.
        resume: continue from the last checkpoint in ``out``, if there is one.
        on_step: called after each step, in every process.
        device: where this process computes; a GPU if there is one.

    Raises:
        ConfigError: settings do not fit the shards, the device or the run folder, or warm-up takes the whole run.
        DataError: shards are missing or damaged, no voxel of the split is seen and labelled, or the disk is full.
        CheckpointError: no checkpoint to resume from is whole, or the weights to start from do not fit.
        StageError: a loss or gradient is not finite (names the samples), no memory is left, another process ended, or
            one that reads ahead died.
        SetupError: shared memory is too small for `data.workers`.
    """
    started = time.monotonic()
    device, ranks = device or default_device(), Ranks.current()
    ranks.first(lambda: check_run(config, shards, ranks))
    split = open_shards(shards, config.data.split)
    config = config.model_copy(update={"classes": split.dataset.classes, "image_shape": split.dataset.image_shape})
    validation = None if config.validation.every is None else Validation(config, shards, ranks)
    lock = folder_lock(out) if ranks.is_first else nullcontext()
    with lock, reproducible(config.seed, device), reader_deaths(WORKERS):
        ranks.first(lambda: open_run(out, config, resume=resume))
        run = _Run(config, split, ranks, device, validation)
        if resume:
            run.state.restore(out / CHECKPOINTS)
        if run.state.step == 0 and config.weights is not None:
            fill(run.model, reread_weights(config.weights))
        if run.state.step == 0:
            fill_parts(run.model)
        run.loop(out, on_step)
        ranks.gather(None)
    seconds = time.monotonic() - started
    logger.info("trained %d steps on %d samples in %.1f s", run.state.step, len(split.samples), seconds)
    return _summary(run.state, out, len(split.samples), seconds)


class _Run:
    """One process of a run: reads, steps, reports, scores and saves."""

    def __init__(
        self, config: TrainConfig, shards: ShardSet, ranks: Ranks, device: torch.device, validation: Validation | None
    ) -> None:
        self.config, self.shards, self.ranks, self.device = config, shards, ranks, device
        self.validation = validation
        self.steps = count_steps(config, len(shards.samples))
        self.model = build_network(config.model)
        if ranks.size > 1:
            join_norms(self.model)
        self.model.to(device).train()
        if config.compile:
            self.model.compile()
        stepper = Stepper(self.model, config, ranks, device)
        self.state = RunState(config, shards, stepper, make_sampler(config, len(shards.samples), ranks))

    def loop(self, out: Path, on_step: Callable[[StepReport], None]) -> None:
        """Runs to the last step."""
        dataset = reader_for(self.config.model, self.shards)
        augment = Augmentation(self.config.data.augment, self.config.seed)
        pin_memory = self.device.type == "cuda"
        workers, sampler = self.config.data.workers, self.state.sampler
        loader = make_loader(dataset, sampler, workers=workers, pin_memory=pin_memory, augment=augment)
        log = RunLog(out, first_step=self.state.step + 1) if self.ranks.is_first else None
        try:
            parts = iter(loader) if self.state.step < self.steps else iter(())
            while self.state.step < self.steps:
                report = self._step(parts, out)
                if log is not None:
                    log.write(report.step, report.row())
                on_step(report)
                self._save(out / CHECKPOINTS)
        finally:
            if log is not None:
                log.close()
            dataset.close()
            if self.validation is not None:
                self.validation.close()

    def _step(self, parts: Iterator[Batch], out: Path) -> StepReport:
        """Reads a batch, moves the weights, and scores them where that is due."""
        started = time.perf_counter()
        batch = list(islice(parts, self.config.data.accumulate))
        waited = time.perf_counter() - started
        state = self.state
        schedule = self.config.schedule
        lr = self.config.optimizer.lr * lr_factor(state.step, length_at(state.step, self.steps, schedule), schedule)
        numbers = state.stepper.step(batch, state.sampler.numbers(), state.step + 1, lr=lr, out=out)
        state.advance()
        seconds = time.perf_counter() - started
        scores: dict[str, float] = {}
        if self.validation is not None and self.validation.is_due(state.step, self.steps):
            scores = self.validation.scores(self.model, state.stepper.average)
            state.note_scores(scores)
        return StepReport(state.step, self.steps, lr, numbers, seconds, waited, memory_gb(self.device), scores)

    def _save(self, folder: Path) -> None:
        """Stores every n-th step, the last one, and each that is the best so far."""
        step = self.state.step
        is_due = step % self.config.checkpoint_every == 0 or step == self.steps or self.state.best_step == step
        if is_due and self.ranks.is_first:
            self.state.save(folder)


def memory_gb(device: torch.device) -> float:
    """Most memory that this process has held so far, of the GPU or of the machine, in 1e9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _summary(state: RunState, out: Path, samples: int, seconds: float) -> TrainSummary:
    rows, found = read_metrics(out), list_checkpoints(out / CHECKPOINTS)
    tenth = max(len(rows) // 10, 1)
    best = None if state.best_step is None else out / CHECKPOINTS / f"step-{state.best_step:06d}"
    return TrainSummary(
        checkpoint=found[-1],
        steps=state.step,
        samples=samples,
        seconds=seconds,
        first=mean_losses(rows[:tenth]),
        last=mean_losses(rows[-tenth:]),
        best=best,
        best_miou=state.best_miou,
    )
