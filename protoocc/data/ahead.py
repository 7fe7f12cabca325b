"""Samples of shards that lie elsewhere, fetched before whoever decodes them asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, runtime_checkable

AHEAD: Final = 64
"""Samples on their way or waiting; a sample has a megabyte or less."""
LINES: Final = 16
"""Requests at a time: at 50 ms for an answer they bring 300 samples a second, more than two cores decode."""


@runtime_checkable
class Fetches(Protocol):
    """A dataset that can bring a sample here."""

    def fetch(self, index: int) -> None:
        """Brings it."""

    def __len__(self) -> int:
        """Number of samples."""


class FetchedAhead:
    """The same batches in the same order, each when all its samples are here."""

    def __init__(self, batches: Iterable[list[int]], dataset: Fetches) -> None:
        """Fetches nothing yet.

        Args:
            batches: sample numbers, which may count through epochs.
            dataset: brings a sample by its number in the split.
        """
        self.batches, self.dataset = batches, dataset

    def __iter__(self) -> Iterator[list[int]]:
        """The batches.

        Raises:
            ProtoOccError: what fetching a sample raised.
        """
        pool = ThreadPoolExecutor(LINES, thread_name_prefix="fetch")
        waiting: deque[tuple[list[int], list[Future[None]]]] = deque()
        count = 0
        try:
            for batch in self.batches:
                waiting.append((batch, [pool.submit(self.dataset.fetch, n % len(self.dataset)) for n in batch]))
                count += len(batch)
                while count > AHEAD and len(waiting) > 1:
                    yield _arrived(waiting)
                    count = sum(len(batch) for batch, _ in waiting)
            while waiting:
                yield _arrived(waiting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _arrived(waiting: deque[tuple[list[int], list[Future[None]]]]) -> list[int]:
    batch, jobs = waiting.popleft()
    for job in jobs:
        job.result()
    return batch
