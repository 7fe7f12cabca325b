"""AdamW as the paper's host uses it, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from protoocc.config import OptimizerConfig, ScheduleConfig, TrainConfig
from protoocc.network import Network


def make_optimizer(model: Network, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with up to four groups: backbone (see `Network.backbone_prefix`) or not, with or without weight decay.

    Only parameters called ``weight`` with at least two axes decay: norms, biases, scalars and the tables of queries and
    positions do not. Each group holds its own ``lr_factor``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_backbone = model.backbone_prefix is not None and name.startswith(model.backbone_prefix)
        factor = config.backbone_lr_factor if is_backbone else 1.0
        is_matrix = name.endswith(".weight") and parameter.ndim >= 2
        decay = config.weight_decay if is_matrix else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr_factor": factor, "weight_decay": decay}
            for (factor, decay), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=config.lr,
        eps=config.eps,
    )


def count_steps(config: TrainConfig, samples: int) -> int:
    """Optimiser steps of a run on so many samples."""
    schedule = config.schedule
    return schedule.steps or math.ceil((schedule.epochs or 0) * samples / config.data.batch_size)


def lr_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Share of the top learning rate at a step.

    Linear from 1 / warmup_steps to 1 during warm-up, then half a cosine down to ``final_lr_factor`` at the last step,
    or a tenth of what it was from each of the ``drops`` on.

    Args:
        step: number of the step, 0 <= step < steps.
        steps: length of the run.
        schedule: warm-up and end.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.drops:
        return float(0.1 ** sum(step >= share * steps for share in schedule.drops))
    progress = (step - schedule.warmup_steps) / max(steps - 1 - schedule.warmup_steps, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return schedule.final_lr_factor + (1.0 - schedule.final_lr_factor) * cosine


def length_at(step: int, steps: int, schedule: ScheduleConfig) -> int:
    """Length of the run that a step's learning rate belongs to: what was planned when the step was made.

    A run that was prolonged follows the cosine of its new length from there on, so its rate rises at that step.

    Args:
        step: number of the step, 0 <= step < steps.
        steps: length of the run by now.
        schedule: with the lengths before.
    """
    return next(length for length in (*schedule.extended, steps) if step < length)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets each group's rate to ``lr`` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
