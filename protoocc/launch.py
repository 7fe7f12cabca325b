"""Several processes of one machine train one network: started, watched and ended together.

Torchrun does the same, also for several machines (`joined`); what starts processes here needs no address and gives
errors as what they are.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed

from protoocc.config import TrainConfig
from protoocc.ranks import LostRankError, lost_ranks
from protoocc.trainer import train
from protoocc.training_report import StepReport, TrainSummary
from schemas.errors import ConfigError, ProtoOccError, StageError

SILENCE: Final = timedelta(minutes=20)
"""A process that waits longer for another one gives up; validation and checkpoints take less."""
_GRACE_S: Final = 3.0
"""Once one process has failed, the others have so long to say why they fail before they are ended."""


@dataclass(frozen=True)
class _Job:
    """What every process is told."""

    processes: int
    config: TrainConfig
    shards: Path
    out: Path
    resume: bool
    meeting: str
    threads: int
    log_level: int


def launch(
    processes: int,
    config: TrainConfig,
    shards: Path,
    out: Path,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> TrainSummary:
    """Trains as `protoocc.trainer.train` does, on several processes of this machine that share every batch.

    Args:
        processes: how many: one per GPU, or any number without a GPU, which then share the cores.
        config: complete settings; ``data.batch_size`` is a multiple of ``processes * data.accumulate``.
        shards: folder of `protoocc pack`.
        out: run folder.
        resume: continue from the last checkpoint in ``out``, if there is one.
        on_step: called in this process after each step.

    Raises:
        ConfigError: more processes than GPUs, or as `train`.
        DataError, CheckpointError, StageError: as `train`.
        StageError: a process was killed; the others are ended within seconds.
    """
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ConfigError(f"--nproc {processes}: this machine has {torch.cuda.device_count()} GPUs, one process each")
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(
            processes=processes,
            config=config,
            shards=shards,
            out=out,
            resume=resume,
            meeting=f"file://{folder}/meeting",
            threads=max(1, torch.get_num_threads() // processes),
            log_level=logging.getLogger().level,
        )
        with _started(job) as workers:
            return _watch(workers, on_step)


@dataclass(frozen=True)
class _Worker:
    """A process and what it says."""

    process: BaseProcess
    words: Connection


@contextmanager
def _started(job: _Job) -> Iterator[list[_Worker]]:
    """The processes of a job, all of them ended when the block is left."""
    context, workers = get_context("spawn"), list[_Worker]()
    try:
        for rank in range(job.processes):
            words, own = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, rank, own), name=f"training process {rank}")
            process.start()
            own.close()
            workers.append(_Worker(process, words))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.words.close()


def _watch(workers: list[_Worker], on_step: Callable[[StepReport], None]) -> TrainSummary:
    """Passes reports and log lines on until all processes are done or one has failed.

    Raises:
        ProtoOccError: what the first process to fail has said, or that it was killed.
        RuntimeError: a bug, with the traceback of its process.
    """
    summary: TrainSummary | None = None
    errors: dict[int, Exception] = {}
    talking, deadline = dict(enumerate(workers)), float("inf")
    while talking and time.monotonic() < deadline:
        ready = connection.wait([worker.words for worker in talking.values()], timeout=0.5)
        for rank, worker in list(talking.items()):
            if worker.words not in ready:
                continue
            try:
                said: Any = worker.words.recv()
            except EOFError:  # it has ended
                del talking[rank]
                worker.process.join()
                if worker.process.exitcode and rank not in errors:
                    errors[rank] = _killed(rank, len(workers), worker.process.exitcode)
                said = None
            if isinstance(said, StepReport):
                on_step(said)
            elif isinstance(said, TrainSummary):
                summary = said
            elif isinstance(said, logging.LogRecord):
                logging.getLogger(said.name).handle(said)
            elif isinstance(said, Exception):
                errors[rank] = said
        if errors and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE_S
        if any(not isinstance(error, LostRankError) for error in errors.values()):
            break
    if errors or summary is None:
        raise _first_cause(errors)
    return summary


def _first_cause(errors: dict[int, Exception]) -> Exception:
    """The error that made the others lose contact."""
    causes = [error for error in errors.values() if not isinstance(error, LostRankError)] or list(errors.values())
    return causes[0] if causes else StageError("the training processes ended without a word; run with --resume")


def _killed(rank: int, size: int, code: int) -> StageError:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    hint = " (the machine may have no memory left)" if code == -signal.SIGKILL else ""
    return StageError(
        f"training process {rank} of {size} was ended by {name}{hint}; the others were stopped. The checkpoints so far "
        "are whole: continue with --resume"
    )


def _work(job: _Job, rank: int, words: Connection) -> None:
    """One process of a job, from its start to its end."""
    _end_with_parent()
    level = job.log_level if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, handlers=[_ToParent(words)], force=True)
    torch.set_num_threads(job.threads)
    try:
        device = _device(rank)
        distributed.init_process_group(
            _backend(device), init_method=job.meeting, rank=rank, world_size=job.processes, timeout=SILENCE
        )
        report = words.send if rank == 0 else _say_nothing
        summary = train(job.config, job.shards, job.out, resume=job.resume, on_step=report, device=device)
        if rank == 0:
            words.send(summary)
    except ProtoOccError as error:
        words.send(error)
        _end(words, 2)
    except Exception:
        words.send(RuntimeError(f"training process {rank} of {job.processes} failed:\n{traceback.format_exc()}"))
        _end(words, 1)
    distributed.destroy_process_group()


class _ToParent(logging.Handler):
    """Sends log lines to the process that started this one, which has the user's format and place for them."""

    def __init__(self, words: Connection) -> None:
        super().__init__()
        self.words = words

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one line, as a finished sentence."""
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.words.send(record)


@contextmanager
def joined(rank: int) -> Iterator[torch.device]:
    """Makes this process, which torchrun has started, one of a run while the block trains.

    Args:
        rank: number of this process on its machine (``LOCAL_RANK``).

    Yields:
        What this process computes on, for `protoocc.trainer.train`.

    Raises:
        ConfigError: this machine has fewer GPUs than processes.
        LostRankError: the others do not answer.
    """
    device = _device(rank)
    with lost_ranks():
        distributed.init_process_group(_backend(device), timeout=SILENCE)
    yield device
    distributed.destroy_process_group()  # left out after a failure: without the others it could wait for ever


def _device(rank: int) -> torch.device:
    """The GPU of a process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {rank} has no GPU: this machine has {torch.cuda.device_count()}; start one process for each"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _end(words: Connection, code: int) -> None:
    """Ends this process at once: a group whose other members are gone cannot be left in order."""
    words.close()
    os._exit(code)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True, name="parent").start()


def _wait_for(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _say_nothing(report: StepReport) -> None:
    """Reports come from process 0 alone."""
