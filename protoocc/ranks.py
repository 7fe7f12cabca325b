"""The processes that share a training run, and what they tell each other.

Who starts them calls `torch.distributed.init_process_group` (`protoocc.launch`, or the command line under torchrun);
without it a run has one process. All of them call the methods below in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn

from schemas.errors import StageError

Value = TypeVar("Value")


class LostRankError(StageError):
    """Another process of the run ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; methods raise `LostRankError` when another one has ended.

    Attributes:
        rank: number of this process, 0..size-1; only 0 writes the run folder.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The processes of torch's default group; this one alone where there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def first(self, action: Callable[[], Value]) -> Value | None:
        """Lets process 0 act while the others wait; its result there, None elsewhere.

        Raises:
            LostRankError: in the other processes, when the action failed.
        """
        if self.size == 1:
            return action()
        result = None
        try:
            if self.is_first:
                result = action()
        except BaseException:
            with suppress(LostRankError):  # the others may be gone as well
                self.gather(False)
            raise
        if not self.gather(True)[0]:
            raise LostRankError(f"process 0 of {self.size} failed, process {self.rank} stops")
        return result

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, by number; any small object."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with lost_ranks():
            distributed.all_gather_object(values, value)
        return values

    def sum(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """The sum over all processes, in place; a tensor of the device that computes."""
        if self.size > 1:
            with lost_ranks():
                distributed.all_reduce(values)
        return values

    def mean(self, values: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """The mean over all processes, in place."""
        return self.sum(values).div_(self.size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces all gradients by their mean over the processes.

        A parameter without a gradient here counts as zero; one without a gradient anywhere stays without. All of them
        travel in one message: nothing depends on the order in which the backward pass finds them.
        """
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        found = torch.tensor([float(parameter.grad is not None) for parameter in trained], device=trained[0].device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        joint = self.sum(torch.cat([found, *(part.detach().flatten() for part in parts)]))
        found, *means = joint.split([len(trained), *(part.numel() for part in parts)])
        for parameter, is_found, mean in zip(trained, found.tolist(), means, strict=True):
            parameter.grad = (mean / self.size).view_as(parameter) if is_found else None


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turns a failed exchange between processes into one sentence.

    Raises:
        LostRankError: the other side closed its connection or kept silent for too long.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            f"another process of this run ended or stopped answering ({str(error).splitlines()[0]}); the checkpoints "
            "so far are whole: continue with --resume"
        ) from error
