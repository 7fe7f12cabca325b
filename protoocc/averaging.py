"""The exponential moving average of a network's weights, which is scored and stored in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of parameters and running statistics; whole numbers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts at the present weights.

        Args:
            model: what is trained.
            decay: share of the old average that a step keeps, at most; early steps keep less, see `update`.
        """
        self.decay = decay
        self.values = _copied(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step: average = kept * average + (1 - kept) * weights.

        ``kept`` is the smaller of the decay and (1 + step) / (10 + step): the start is soon forgotten.

        Args:
            model: after the step.
            step: finished steps, 1 for the first.
        """
        kept = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1.0 - kept)
            else:
                self.values[name].copy_(value)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continues from a stored average."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """The network holds the average while the block runs, and its own weights, bit for bit, after it."""
        own = _copied(model.state_dict())
        model.load_state_dict(self.values)
        try:
            yield
        finally:
            model.load_state_dict(own)


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}
