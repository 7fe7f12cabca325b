"""Where tasks run: in this thread, on local threads or processes, or on a running Dask cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Scheduler:
    """Where and how wide a stage runs; never changes its bytes."""

    kind: str = "processes"
    """`sync` (this thread, for debugging), `threads`, `processes`, or the address of a Dask scheduler (tcp://...)."""
    workers: int = field(default_factory=available_cores)
    memory_limit: str = "4GiB"
    """Memory of one local worker process before Dask restarts it."""


def run_tasks(
    work: Callable[[Task], Result], tasks: Sequence[Task], scheduler: Scheduler
) -> Iterator[tuple[Task, Result | Exception]]:
    """Yields each task with its result or its exception, as they finish.

    Raises:
        ConfigError: the scheduler's kind is unknown or its address does not answer.
    """
    if scheduler.kind == "sync" or len(tasks) <= 1 and scheduler.kind == "processes":
        yield from _run_here(work, tasks)
        return
    with _connect(scheduler, len(tasks)) as client:
        yield from _run_on(client, work, tasks)


def _run_here(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Exception]]:
    for task in tasks:
        try:
            yield task, work(task)
        except Exception as error:
            yield task, error


def _run_on(
    client: Client, work: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result | Exception]]:
    from distributed import as_completed

    futures = {client.submit(work, task, pure=False): task for task in tasks}
    for future in as_completed(list(futures), loop=client.loop):
        error = future.exception()
        yield futures[future], error if error is not None else future.result()
        future.release()


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


def _connect(scheduler: Scheduler, num_tasks: int) -> Client:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)
    local: dict[str, Any] = {
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
        "set_as_default": False,
    }
    workers = max(1, min(scheduler.workers, num_tasks))
    if scheduler.kind == "processes":
        with _unchanged_environment():
            return Client(n_workers=workers, threads_per_worker=1, memory_limit=scheduler.memory_limit, **local)
    if scheduler.kind == "threads":
        return Client(n_workers=1, threads_per_worker=workers, processes=False, **local)
    if "://" not in scheduler.kind:
        raise ConfigError(
            f"--scheduler {scheduler.kind}: expected sync, threads, processes or an address tcp://HOST:PORT"
        )
    try:
        return Client(scheduler.kind, timeout=10, set_as_default=False)
    except OSError as error:
        raise ConfigError(f"no Dask scheduler answers at {scheduler.kind}: {error}") from error
