"""One optimiser step on a joint batch: its parts, the mean gradient of all processes, clipping and loss scaling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from protoocc.averaging import WeightAverage
from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.draws import draw_seed
from protoocc.losses import choose_voxels, compute_losses
from protoocc.network import Network
from protoocc.optimizer import make_optimizer, set_learning_rate
from protoocc.ranks import Ranks
from protoocc.training_trouble import describe_broken, memory_errors, store_batches
from schemas.errors import StageError

_TYPES: Final = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LEAST_SCALE: Final = 2.0**-14
"""A loss scale below this one has found infinities in 30 steps in a row: no scale helps."""


class Stepper:
    """The network, its optimiser and all that changes with a step."""

    def __init__(self, model: Network, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
        """Starts with the weights of ``model``, which is on ``device`` and has the norms of all processes."""
        self.model, self.config, self.ranks, self.device = model, config, ranks, device
        self.optimizer = make_optimizer(model, config.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        decay = config.optimizer.ema
        self.average = None if decay is None else WeightAverage(model, decay)

    def step(
        self, parts: Sequence[Batch], numbers: Sequence[Sequence[int]], step: int, *, lr: float, out: Path
    ) -> dict[str, float]:
        """Moves the weights by the gradient of the joint batch.

        Args:
            parts: this process's share of the batch, in equal parts.
            numbers: global sample numbers of each part, which decide its random draws.
            step: number of the step, 1 for the first.
            lr: learning rate.
            out: run folder, for the batch of a step that fails.

        Returns:
            Means of the losses over the joint batch, and ``gradient_norm``; with float16 ``loss_scale`` and, where the
            gradient overflowed and the step was left out, ``skipped`` in place of ``gradient_norm``.

        Raises:
            StageError: a loss or gradient is not finite (stores the batch and names the samples), or no memory.
        """
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        with memory_errors(self.config, step, self.ranks):
            losses = [self._add_gradient(part, group) for part, group in zip(parts, numbers, strict=True)]
            self.ranks.mean_gradients(self.model.parameters())
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
            found = self._means(losses, norm)
            broken = [name for name, value in found.items() if not math.isfinite(value)]
            if broken and not (broken == ["gradient_norm"] and self._may_skip()):
                raise self._broken(step, broken, parts, losses, out=out)
            self._move(step, is_skipped=bool(broken))
        if self.scaler.is_enabled():
            found["loss_scale"] = float(self.scaler.get_scale())
            if broken:
                del found["gradient_norm"]
                found["skipped"] = 1
        return found

    def state_dict(self) -> dict[str, Any]:
        """What continues a run beside the stored weights; with an average those are the average's."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "trained": None if self.average is None else dict(self.model.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Continues from a stored state and the weights that were stored beside it."""
        self.model.load_state_dict(weights if self.average is None else state["trained"])
        if self.average is not None:
            self.average.load(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def weights(self) -> Mapping[str, Tensor]:
        """What is stored as the network's weights: the average where there is one."""
        return self.model.state_dict() if self.average is None else self.average.values

    def _add_gradient(self, batch: Batch, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Adds a part's share of the gradient; returns its losses.

        Whatever draws from torch's global generator starts anew here, so that a step needs no state of the last one.
        """
        seeds = [draw_seed(self.config.seed, number) for number in numbers]
        torch.manual_seed(seeds[0])
        batch = dataclasses.replace(batch.to(self.device), seeds=seeds)
        choice = choose_voxels(batch, self.config.loss, self.config.classes)
        precision = _TYPES[self.config.precision]
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            output = self.model(batch, choice.all)
        losses = compute_losses(output, batch, choice, self.config.loss, self.config.model)
        share = losses["total"] / self.config.data.accumulate
        torch.autograd.backward(self.scaler.scale(share))
        return {name: value.detach().float() for name, value in losses.items()}

    def _means(self, losses: Sequence[Mapping[str, Tensor]], norm: Tensor) -> dict[str, float]:
        """Means over parts and processes, and the gradient's norm, which is the same everywhere."""
        together = torch.stack([torch.stack(list(part.values())) for part in losses]).mean(0)
        numbers = torch.cat([self.ranks.mean(together), norm.detach().float()[None]]).tolist()
        return dict(zip([*losses[0], "gradient_norm"], numbers, strict=True))

    def _broken(
        self,
        step: int,
        names: Sequence[str],
        parts: Sequence[Batch],
        losses: Sequence[Mapping[str, Tensor]],
        *,
        out: Path,
    ) -> StageError:
        """Stores what broke the step, or all of it where every loss is finite; the same error in every process."""
        own = _broken_parts(parts, losses)
        told = self.ranks.gather(_tokens(own))
        is_loss = any(told)
        stored = store_batches(out, step, own or parts, self.ranks.rank) if own or not is_loss else None
        files = [file for file in self.ranks.gather(stored) if file is not None]
        samples = [token for tokens in (told if is_loss else self.ranks.gather(_tokens(parts))) for token in tokens]
        return StageError(describe_broken(step, names, samples, files))

    def _may_skip(self) -> bool:
        """Whether an infinite gradient is the loss scale's fault, which then shrinks."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= _LEAST_SCALE

    def _move(self, step: int, *, is_skipped: bool) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None and not is_skipped:
            self.average.update(self.model, step)


def _broken_parts(parts: Sequence[Batch], losses: Sequence[Mapping[str, Tensor]]) -> list[Batch]:
    """Parts of this process with a loss that is not finite."""
    return [
        part
        for part, values in zip(parts, losses, strict=True)
        if not all(bool(torch.isfinite(value)) for value in values.values())
    ]


def _tokens(parts: Sequence[Batch]) -> list[str]:
    return [token for part in parts for token in part.tokens]
