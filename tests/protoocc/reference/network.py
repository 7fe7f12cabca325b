"""A small network in float64, what its modules were given, and its training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model import ProtoOcc, ProtoOccConfig
from protoocc.network import NetworkOutput
from schemas.classes import OCC3D

PARTS = ("ce", "lovasz", "cls", "cons", "total")
"""Losses that a training step reports, less the sum form of L_cls."""


def make_network(config: ProtoOccConfig) -> ProtoOcc:
    """In evaluation mode; weights that start at zero are drawn at random, so that every part has a say."""
    torch.manual_seed(0)
    model = ProtoOcc(config).double().eval()
    for name, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        if name.endswith(("scale", "shift")):
            nn.init.uniform_(parameter, -2.0, 2.0)
    return model


def record(module: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Arguments and results of every later call of a module."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    return calls


def train_step(model: ProtoOcc, batch: Batch) -> tuple[NetworkOutput, dict[str, Tensor], list[Tensor | None]]:
    """Output, losses and gradients of a training step whose random numbers are always the same."""
    torch.manual_seed(7)
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    output = model.train()(batch, choice.all)
    losses = compute_losses(output, batch, choice, LossConfig())
    gradients = torch.autograd.grad(losses["total"], list(model.parameters()), allow_unused=True)
    return output, losses, list(gradients)


def assert_close(one: Tensor | None, other: Tensor | None) -> None:
    """Equal up to the order of sums in float64."""
    assert one is not None and other is not None
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
