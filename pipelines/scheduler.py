"""Where tasks run: in this thread, on local threads or processes, or on a running Dask cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, runtime_checkable
from uuid import uuid4

from pipelines.cluster import OnSite, Site, check_workers, wait_for_others
from schemas.errors import ConfigError, SetupError, StageError
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
RETRIES: Final = 1
"""How often a task whose local worker process died is tried again, by itself; a cluster has a setting of its own."""
ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": 1 << 25, "MALLOC_TRIM_THRESHOLD_": 1 << 28}
"""Environment of local workers, bytes: glibc keeps freed arrays up to these sizes. By Dask's own setting, 64 KiB, each
image is mapped and given back anew, which takes a fifth of the time of a mask."""
FILES: Final = 32
FILES_OF_A_WORKER: Final = 12
"""Descriptors that this process opens for local workers; measured: 20 and 10 for each."""
GPU: Final = "GPU"
"""Dask's name of the resource of which a worker has one for each GPU, and such a task takes one."""


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
    needs_gpu: bool = False
    """Whether a task takes a GPU of its worker for itself."""

    @property
    def is_remote(self) -> bool:
        """Whether the workers were started elsewhere."""
        return "://" in self.kind

    def __post_init__(self) -> None:
        if self.kind not in ("sync", "threads", "processes") and not self.is_remote:
            raise ConfigError(
                f"--scheduler {self.kind}: expected sync, threads, processes or an address tcp://HOST:PORT"
            )
        if self.memory_limit is None:
            return
        if self.kind != "processes":
            where = "its workers were started with their own" if self.is_remote else "there is no worker process"
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


def check_open_files(workers: int) -> None:
    """Takes as many descriptors as so many local worker processes need, and gives them back.

    Dask prints tracebacks and hangs for a minute where they run out while workers start.

    Raises:
        SetupError: this process may not open so many.
    """
    taken: list[int] = []
    wanted = FILES + FILES_OF_A_WORKER * workers
    try:
        while len(taken) < wanted:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise SetupError(
            f"{workers} worker processes need {wanted} open files and there are too many open files; raise the limit "
            "(ulimit -n 4096) or use fewer --workers"
        ) from error
    finally:
        for file in taken:
            os.close(file)


def worker_number() -> int:
    """Number of the local worker that runs this; 0 outside of one, and on clusters whose workers have names."""
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:
        return 0
    return name if isinstance(name, int) else 0


def run_tasks(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    scheduler: Scheduler,
    site: Callable[[], Site] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Generator[tuple[Task, Result | Exception], None, None]:
    """Yields each task with its result or its exception, as they finish.

    Only as many tasks as there are workers are in flight, so neither memory nor the cost of a task depends on their
    number. A task whose worker process died is tried again (`RETRIES`), then yields a `StageError`.

    Args:
        work: top-level function, partial or instance of a dataclass.
        tasks: in the order in which they start.
        scheduler: where they run.
        site: what the workers of a cluster must find, asked only there; None where tasks share no files.
        on_note: called with a line for the user, such as the address of the dashboard.

    Raises:
        ConfigError: the scheduler's address does not answer, or no worker has the GPU that is needed.
        SetupError: a worker sees other folders or has other libraries; shared memory is too small for local processes.
        StageError: the connection to the cluster was lost.
    """
    is_alone = len(tasks) <= 1 and scheduler.kind == "processes" and scheduler.memory_limit is None
    if scheduler.kind == "sync" or is_alone:
        yield from _run_here(work, tasks)
        return
    workers = max(1, min(scheduler.workers or available_cores(), len(tasks)))
    with _connect(scheduler, workers) as client, _lost_connection(scheduler):
        if scheduler.is_remote or find_spec("bokeh") is not None:
            on_note(f"dashboard: {client.dashboard_link}")
        room = None if scheduler.is_remote else workers
        batch = _Batch(work, room, "task", scheduler.needs_gpu)
        if scheduler.is_remote:
            _check_cluster(client, scheduler, on_note)
        if scheduler.is_remote and site is not None:
            place = site()
            check_workers(client, place)
            wait_for_others(client, place, on_note)
            batch = _Batch(OnSite(place, work), room, place.key, scheduler.needs_gpu)
        for task, outcome in batch.run_on(client, tasks):
            yield task, _explain(outcome, task, scheduler, workers)


def _check_cluster(client: Client, scheduler: Scheduler, on_note: Callable[[str], None]) -> None:
    """Refuses a cluster without the GPU that is needed; one without any worker may still get some."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    if not known:
        on_note(f"no worker has joined {scheduler.kind} yet; waiting")
    elif scheduler.needs_gpu and not any(worker["resources"].get(GPU) for worker in known.values()):
        raise ConfigError(
            f"no worker of {scheduler.kind} offers a GPU. Start one for each GPU with `dask worker ... --nthreads 1 "
            f'--resources "{GPU}=1"` and CUDA_VISIBLE_DEVICES set to it.'
        )


def _run_here(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Exception]]:
    for task in tasks:
        try:
            yield task, work(task)
        except Exception as error:
            yield task, error


@dataclass(frozen=True)
class _Batch(Generic[Task, Result]):
    """Tasks of one kind on Dask."""

    work: Callable[[Task], Result]
    room: int | None
    """How many may be in flight; None follows the size of the cluster."""
    key: str
    """Start of their names."""
    needs_gpu: bool

    def run_on(self, client: Client, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        """As `run_tasks`.

        Dask blames all tasks that a dead worker had, also one that only waited there. So a local task is tried again
        with nothing else in flight: who dies then has killed its worker.
        """
        from distributed import CancelledError, KilledWorker, as_completed

        waiting = iter(tasks)
        running: dict[Future, Task] = {}
        suspects: list[Task] = []
        alone: Task | None = None
        finished = as_completed(loop=client.loop)

        def start(task: Task) -> None:
            future = self._submit(client, task)
            running[future] = task
            finished.add(future)

        def fill() -> None:
            nonlocal alone
            alone = suspects.pop(0) if suspects and not running else None
            if alone is not None:
                start(alone)
            elif not suspects:
                wanted = self.room or max(1, TASKS_PER_REMOTE_THREAD * sum(client.nthreads().values()))
                for task in islice(waiting, max(0, wanted - len(running))):
                    start(task)

        fill()
        for future in finished:
            task = running.pop(future)
            error = future.exception()
            if isinstance(error, CancelledError):
                raise error
            outcome = error if error is not None else future.result()
            future.release()
            is_suspect = isinstance(error, KilledWorker) and self.room is not None and task is not alone
            if is_suspect:
                suspects.append(task)
            fill()
            if not is_suspect:
                yield task, outcome

    def _submit(self, client: Client, task: Task) -> Future:
        resources = {GPU: 1} if self.needs_gpu else None
        return client.submit(self.work, task, key=f"{self.key}-{uuid4()}", pure=False, resources=resources)


def _explain(outcome: Result | Exception, task: Named, scheduler: Scheduler, workers: int) -> Result | Exception:
    """The same outcome, or what the death of a worker process means and what to do about it."""
    from distributed import KilledWorker

    if not isinstance(outcome, KilledWorker):
        return outcome
    deaths = 1 + (outcome.allowed_failures if scheduler.is_remote else RETRIES)
    died = (
        f"unit {task.name}: its worker process died {deaths} times, which nearly always means that it needed too much "
        "memory."
    )
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
    import dask.config
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its tracebacks of what a message tells
    threads = workers if scheduler.kind == "threads" else 1
    local: dict[str, Any] = {
        "resources": {GPU: threads} if scheduler.needs_gpu else None,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
        "set_as_default": False,
    }
    if scheduler.kind == "processes":
        check_shared_memory(workers, "run in this process alone: --scheduler sync")
        check_open_files(workers)
        start_resource_tracker()
        try:
            environment = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **ALLOCATOR}
            with _unchanged_environment(), dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
                return Client(n_workers=workers, threads_per_worker=1, **_worker_settings(scheduler, workers), **local)
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


@contextmanager
def _lost_connection(scheduler: Scheduler) -> Iterator[None]:
    """Says that the scheduler has gone; after half a minute of attempts Dask gives all tasks up."""
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise StageError(
            f"the connection to {scheduler.kind} was lost: its scheduler ended or cannot be reached. Start it and its "
            "workers again, then run again. Finished units are kept."
        ) from error


def _worker_settings(scheduler: Scheduler, workers: int) -> dict[str, Any]:
    """Dask's settings: how often a task may kill its worker, that a worker never waits for free memory, no profiler.

    Tasks return small reports, so a worker that is nearly full has nothing to spill and would wait for ever.
    """
    return {
        "memory_limit": scheduler.worker_memory(workers),
        "config": {
            **{f"distributed.worker.memory.{step}": False for step in ("target", "spill", "pause")},
            "distributed.worker.profile.enabled": False,
        },
        "scheduler_kwargs": {"allowed_failures": 0},
    }
