"""Batches that other processes read ahead: what goes wrong there reaches this one as one clear error.

A loader of torch alone answers a damaged sample with the traceback of its worker, waits for ever for a batch that does
not fit into shared memory, and raises what a dead worker left wherever the main thread is at that moment.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from typing import Any, Final, Generic, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from schemas.errors import ProtoOccError, SetupError, StageError
from schemas.shared_memory import GIVE_MORE, check_shared_memory, describe_room

READ_HERE: Final = "read in this process alone: --set {setting}=0"

_DEATH: Final = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is )?(killed by signal: [\w ]+|exited unexpectedly)"
)
"""What torch says; the rest of it is advice for programmers."""
_BUS_ERROR: Final = "Bus error"
_SIGNAL_S: Final = 2.0
"""Longest time from a broken connection to the signal that says why."""

_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
_KEPT_BYTES: Final = 2**28
"""Above what a sample takes: both settings of `mallopt` in glibc's malloc.h."""

Loaded = TypeVar("Loaded")


class Loader(Generic[Loaded]):
    """Reads given batches in their order, the same ones with any number of processes.

    Whoever takes batches from it does so inside of `reader_deaths`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[[Sequence[Any]], Loaded],
        batches: Iterable[list[int]],
        *,
        workers: int,
        pin_memory: bool,
        setting: str,
    ) -> None:
        """Starts nothing yet.

        Args:
            dataset: reads a sample by its number.
            collate: makes a batch, an object with tensors as attributes, of samples.
            batches: sample numbers of each batch.
            workers: processes that read ahead; 0 reads in this process.
            pin_memory: put batches into pinned memory, for copies to a GPU.
            setting: what `workers` is called in the settings, for messages.
        """
        self.workers, self.setting = workers, setting
        self._loader: DataLoader[Any] = DataLoader(
            _Answers(dataset, collate, READ_HERE.format(setting=setting)),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Loaded]:
        """The batches.

        Raises:
            SetupError: there is too little shared memory for the processes or their batches.
            ProtoOccError: what reading a sample raised.
        """
        if self.workers:
            check_shared_memory(self.workers, READ_HERE.format(setting=self.setting))
        for answer in self._loader:
            if isinstance(answer, ProtoOccError):
                raise answer
            yield answer


@contextmanager
def reader_deaths(setting: str) -> Iterator[None]:
    """Turns the death of a process that reads ahead into an error, wherever it interrupts the block.

    Args:
        setting: what the number of these processes is called in the settings.

    Raises:
        StageError: such a process died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        answer = error if isinstance(error, RuntimeError) else _told_later(error)
        deaths = [found[1] for told in (answer.__cause__, answer) if (found := _DEATH.match(str(told)))]
        if not deaths:
            raise
        raise StageError(
            f"a process that reads ahead died ({deaths[0]}), {_cause(deaths[0])}. Read with fewer of them, or "
            f"{READ_HERE.format(setting=setting)}. Finished steps that were stored are kept."
        ) from error


def _told_later(error: Exception) -> Exception:
    """What torch says of a process whose connection broke: its handler of the signal may run a moment after that."""
    try:
        time.sleep(_SIGNAL_S)
    except RuntimeError as later:
        return later
    return error


def _cause(death: str) -> str:
    if death.endswith(_BUS_ERROR):
        return f"which means that shared memory is full ({describe_room()}) or that a file was cut while it was read"
    return "which nearly always means that memory ran out"


class _Answers(Dataset[Any]):
    """Whole batches, or why one cannot be read: errors are handed over as they are, torch would wrap them."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[Sequence[Any]], Any], instead: str) -> None:
        self.dataset, self.collate, self.instead = dataset, collate, instead

    def __getitems__(self, numbers: list[int]) -> Any:
        try:
            batch = self.collate([self.dataset[number] for number in numbers])
            if get_worker_info() is not None:
                _share(batch, self.instead)
        except ProtoOccError as error:
            return error
        return batch


def _share(batch: Any, instead: str) -> None:
    """Moves a batch's tensors into shared memory, which sending them would do in a thread that nobody listens to.

    Raises:
        SetupError: they do not fit.
    """
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        size = sum(tensor.nbytes for tensor in tensors) / 2**20
        raise SetupError(
            f"a batch of {size:,.1f} MiB does not fit into shared memory, where each process that reads ahead keeps "
            f"two of them ({describe_room()}; {error}). {GIVE_MORE}, read with fewer processes, or {instead}."
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    """In a worker: a batch that cannot be sent ends it, because whoever waits for the batch would wait for ever."""
    keep_freed_memory()
    Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def keep_freed_memory() -> None:
    """Keeps what the arrays of a sample leave for those of the next, in a process that reads.

    The C library of Linux would give it back to the system after each sample and get it again page by page, which takes
    a sixth of the time of decoding. Others have no such setting.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for setting in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            libc.mallopt(setting, _KEPT_BYTES)


def _give_up(error: Exception, batch: Any) -> NoReturn:
    os._exit(1)
