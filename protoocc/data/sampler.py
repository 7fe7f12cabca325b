"""The order of training: every sample once per epoch, exact resume, any number of processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from schemas.errors import ConfigError


class EpochSampler(Sampler[list[int]]):
    """An endless stream of batches: shuffled epochs, one after the other.

    Samples are numbered through all epochs: number n is sample ``n % length`` of the split in epoch ``n // length``.
    Global sample g of the stream belongs to epoch ``g // length`` and is entry ``g % length`` of that epoch's
    permutation, which only ``(seed, epoch)`` decide. A batch may straddle two epochs, so nothing is dropped or padded.
    Process r of w takes the samples with ``g % w == r``: all processes get equally many, and the place in the stream
    does not depend on their number. Each process may take its share of a batch in equal parts, one after the other.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, parts: int = 1
    ) -> None:
        """Starts at the first sample of epoch 0.

        Args:
            length: number of samples of the split.
            batch_size: samples per batch over all processes; a multiple of ``world_size * parts``.
            seed: decides the permutations.
            rank: number of this process.
            world_size: number of processes.
            parts: parts of a process's share of a batch.

        Raises:
            ConfigError: no samples, or a batch that processes and parts cannot share equally.
        """
        if length < 1 or batch_size < 1 or batch_size % (world_size * parts) or not 0 <= rank < world_size:
            raise ConfigError(
                f"cannot deal {length} samples in batches of {batch_size} to process {rank} of {world_size}, in "
                f"{parts} parts each; expected at least one sample and a data.batch_size that is a multiple of "
                f"{world_size * parts} (processes times data.accumulate)"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self.epoch, self.position = 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        """Parts of this process from the present place on, without end; the place itself moves by `advance`."""
        batch = self.epoch * self.length + self.position
        epoch, order = -1, [0]
        while True:
            for numbers in self._deal(batch):
                part = []
                for number in numbers:
                    if number // self.length != epoch:
                        epoch = number // self.length
                        order = self._permutation(epoch)
                    part.append(epoch * self.length + order[number % self.length])
                yield part
            batch += self.batch_size

    def numbers(self) -> list[list[int]]:
        """Global sample numbers of the present batch in this process, part by part."""
        return self._deal(self.epoch * self.length + self.position)

    def advance(self) -> None:
        """Counts one batch as used: loaders read ahead, so only the trainer knows what was used."""
        samples = self.position + self.batch_size
        self.epoch, self.position = self.epoch + samples // self.length, samples % self.length

    def state_dict(self) -> dict[str, int]:
        """The place in the stream: the epoch and the number of its samples that were used by all processes."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at a stored place.

        Raises:
            ConfigError: the place lies outside an epoch of this sampler's length.
        """
        if state["epoch"] < 0 or not 0 <= state["position"] < self.length:
            raise ConfigError(f"sampler state {state} does not fit {self.length} samples; were other shards used?")
        self.epoch, self.position = state["epoch"], state["position"]

    def _deal(self, first: int) -> list[list[int]]:
        """Global numbers of this process's parts of the batch that starts at a global number."""
        share = self.batch_size // self.parts
        starts = range(first, first + self.batch_size, share)
        return [list(range(start + self.rank, start + share, self.world_size)) for start in starts]

    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.length, generator=generator).tolist()
