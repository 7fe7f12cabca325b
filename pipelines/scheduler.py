"""Where tasks run: in this thread, on local threads or processes, or on a running Dask cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable

from schemas.errors import ConfigError, StageError
from schemas.shared_memory import check_shared_memory

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

MEMORY_SHARE: Final = 0.9
"""Of the machine's memory, what all local worker processes together may use unless told otherwise."""
LEAST_MEMORY: Final = 256 << 20
"""Bytes: a worker process with a lower limit would be killed while it starts, again and again."""
TASKS_PER_REMOTE_THREAD: Final = 2
"""On a cluster, the next task waits beside each running one, as answers travel; local workers get one at a time."""


@runtime_checkable
class Named(Protocol):
    """What a task must have, so that a message can say which one failed."""

    @property
    def name(self) -> str:
        """Name of the task."""


Task = TypeVar("Task", bound=Named)
Result = TypeVar("Result")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Scheduler:
    """Where and how wide a stage runs; never changes its bytes.

    Raises:
        ConfigError: an unknown kind, or a memory limit that Dask would not understand or that nothing would keep.
    """

    kind: str = "processes"
    """`sync` (this thread, for debugging), `threads`, `processes`, or the address of a Dask scheduler (tcp://...)."""
    workers: int | None = None
    """Parallel workers; None leaves it to the stage, for most of them all cores."""
    memory_limit: str | None = None
    """Memory of one local worker process before it is stopped, as Dask writes it: `4GiB`, or `0.5` for that share of
    the machine's memory. None: an equal share of `MEMORY_SHARE` for each worker."""

    def __post_init__(self) -> None:
        if self.kind not in ("sync", "threads", "processes") and "://" not in self.kind:
            raise ConfigError(
                f"--scheduler {self.kind}: expected sync, threads, processes or an address tcp://HOST:PORT"
            )
        if self.memory_limit is None:
            return
        if self.kind != "processes":
            where = (
                "there is no worker process" if "://" not in self.kind else "its workers were started with their own"
            )
            raise ConfigError(f"--memory-limit {self.memory_limit} belongs to --scheduler processes; {where}")
        self.worker_memory(1)

    def worker_memory(self, workers: int) -> int:
        """Bytes that one of so many local worker processes may use; at most what the machine (or its cgroup) has.

        Raises:
            ConfigError: the limit is no number of bytes and no share, or less than a worker needs to start.
        """
        from distributed.worker_memory import parse_memory_limit

        wanted = MEMORY_SHARE / workers if self.memory_limit is None else self.memory_limit
        try:
            limit = parse_memory_limit(wanted, 1, workers, logger=logger)
        except (ValueError, OverflowError):
            limit = None
        if limit is None or limit < LEAST_MEMORY:
            raise ConfigError(
                f"--memory-limit {wanted}: expected at least {_mebibytes(LEAST_MEMORY)} for each worker, such as 4GiB, "
                "or a share of the machine's memory, such as 0.5"
            )
        return limit


def start_resource_tracker() -> None:
    """Starts Python's remover of semaphores before the first worker process, silent and without a trace.

    It would complain in the terminal when this process is stopped, and starting it takes back which signals this
    thread, and so its workers, do not see.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else None
    terminal, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        resource_tracker.ensure_running()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(silence)
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def worker_number() -> int:
    """Number of the local worker that runs this; 0 outside of one, and on clusters whose workers have names."""
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:
        return 0
    return name if isinstance(name, int) else 0


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], scheduler: Scheduler
) -> Generator[tuple[Task, Result | Exception], None, None]:
    """Yields each task with its result or its exception, as they finish.

    Only as many tasks as there are workers are in flight, so neither memory nor the cost of a task depends on their
    number. A task whose worker process died yields a `StageError`.

    Raises:
        ConfigError: the scheduler's address does not answer.
        SetupError: shared memory is too small for the local processes.
    """
    is_alone = len(tasks) <= 1 and scheduler.kind == "processes" and scheduler.memory_limit is None
    if scheduler.kind == "sync" or is_alone:
        yield from _run_here(work, tasks)
        return
    workers = max(1, min(scheduler.workers or available_cores(), len(tasks)))
    with _connect(scheduler, workers) as client:
        for task, outcome in _run_on(client, work, tasks, None if "://" in scheduler.kind else workers):
            yield task, _explain(outcome, task, scheduler, workers)


def _run_here(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Exception]]:
    for task in tasks:
        try:
            yield task, work(task)
        except Exception as error:
            yield task, error


def _run_on(
    client: Client, work: Callable[[Task], Result], tasks: Sequence[Task], room: int | None
) -> Iterator[tuple[Task, Result | Exception]]:
    """As `run_tasks`; ``room`` is how many tasks may be in flight, None follows the size of the cluster."""
    from distributed import as_completed

    waiting = iter(tasks)
    running: dict[Future, Task] = {}
    finished = as_completed(loop=client.loop)

    def fill() -> None:
        wanted = room or max(1, TASKS_PER_REMOTE_THREAD * sum(client.nthreads().values()))
        for task in islice(waiting, max(0, wanted - len(running))):
            future = client.submit(work, task, pure=False)
            running[future] = task
            finished.add(future)

    fill()
    for future in finished:
        task = running.pop(future)
        error = future.exception()
        outcome = error if error is not None else future.result()
        future.release()
        fill()
        yield task, outcome


def _explain(outcome: Result | Exception, task: Named, scheduler: Scheduler, workers: int) -> Result | Exception:
    """The same outcome, or what the death of a worker process means and what to do about it."""
    from distributed import KilledWorker

    if not isinstance(outcome, KilledWorker):
        return outcome
    died = f"unit {task.name}: its worker process died, which nearly always means that it needed too much memory."
    if scheduler.kind != "processes":
        return StageError(f"{died} Give the workers of {scheduler.kind} more where they are started.")
    limit = scheduler.worker_memory(workers)
    count = "The only worker" if workers == 1 else f"Each of {workers} workers"
    return StageError(
        f"{died} {count} may use {_mebibytes(limit)}; allow more with --memory-limit, such as --memory-limit "
        f"{math.ceil(2 * limit / (1 << 30))}GiB, or run fewer with --workers. Finished units are kept."
    )


def _mebibytes(size: int) -> str:
    return f"{size >> 20:,} MiB"


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Takes back what starting local processes leaves behind.

    Dask sets OMP_NUM_THREADS=1 for them in this process, which would slow down the training that follows here.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _connect(scheduler: Scheduler, workers: int) -> Client:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)
    local: dict[str, Any] = {
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
        "set_as_default": False,
    }
    if scheduler.kind == "processes":
        check_shared_memory(workers, "run in this process alone: --scheduler sync")
        start_resource_tracker()
        try:
            with _unchanged_environment():
                return Client(n_workers=workers, threads_per_worker=1, **_memory(scheduler, workers), **local)
        except RuntimeError as error:
            raise StageError(
                f"the {workers} worker processes could not start, or died at once ({error}), which nearly always means "
                "that memory ran out. Run fewer with --workers. Finished units are kept."
            ) from error
    if scheduler.kind == "threads":
        return Client(n_workers=1, threads_per_worker=workers, processes=False, **local)
    try:
        return Client(scheduler.kind, timeout=10, set_as_default=False)
    except OSError as error:
        raise ConfigError(f"no Dask scheduler answers at {scheduler.kind}: {error}") from error


def _memory(scheduler: Scheduler, workers: int) -> dict[str, Any]:
    """Dask's settings: a task that killed its worker is not tried again, and a worker never waits for free memory.

    Tasks return small reports, so a worker that is nearly full has nothing to spill and would wait for ever.
    """
    return {
        "memory_limit": scheduler.worker_memory(workers),
        "config": {f"distributed.worker.memory.{step}": False for step in ("target", "spill", "pause")},
        "scheduler_kwargs": {"allowed_failures": 0},
    }
