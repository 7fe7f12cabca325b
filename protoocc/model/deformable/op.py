"""Deformable attention as one operator of torch, with kernels for CPU and GPU, gradients and a count of its work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from protoocc.model.deformable import cpu
from protoocc.model.deformable.layout import Layout

_INPUTS = "Tensor value, Tensor locations, Tensor weights, SymInt[] sizes, SymInt[] counts"


def _layout(sizes: Sequence[int], counts: Sequence[int]) -> Layout:
    return Layout(tuple(zip(sizes[::2], sizes[1::2], strict=True)), tuple(counts))


@torch.library.custom_op(
    "protoocc::deformable_attention", mutates_args=(), device_types="cpu", schema=f"({_INPUTS}) -> Tensor"
)
def deformable_op(
    value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> Tensor:
    """Forward; ``sizes`` is H, W of level after level. Shapes as in `deformable_attention`."""
    return cpu.forward(value, locations, weights, _layout(sizes, counts))


@torch.library.custom_op(
    "protoocc::deformable_attention_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad_out, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
)
def deformable_backward_op(
    grad_out: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights."""
    return cpu.backward(grad_out, value, locations, weights, _layout(sizes, counts))


@deformable_op.register_kernel("cuda")
def _forward_on_gpu(
    value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> Tensor:
    from protoocc.model.deformable import gpu

    return gpu.forward(value, locations, weights, _layout(sizes, counts))


@deformable_backward_op.register_kernel("cuda")
def _backward_on_gpu(
    grad_out: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    from protoocc.model.deformable import gpu

    return gpu.backward(grad_out, value, locations, weights, _layout(sizes, counts))


@deformable_op.register_fake
def _forward_shape(
    value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> Tensor:
    return value.new_empty(weights.shape[0], weights.shape[1], value.shape[3])


@deformable_backward_op.register_fake
def _backward_shapes(
    grad_out: Tensor, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sequence[int], counts: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, locations, weights, ctx.sizes, ctx.counts = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    gradients = deformable_backward_op(grad_out, *ctx.saved_tensors, ctx.sizes, ctx.counts)
    return *gradients, None, None


deformable_op.register_autograd(_differentiate, setup_context=_keep)


def sampling_flops(channels: int, weights: Sequence[int]) -> int:
    """Four cells for each sampling point, one multiplication and one addition per channel."""
    return 2 * 4 * channels * torch.Size(weights).numel()


@register_flop_formula(torch.ops.protoocc.deformable_attention)
def _forward_flops(value: Sequence[int], locations: Sequence[int], weights: Sequence[int], *_: Any, **__: Any) -> int:
    return sampling_flops(value[3], weights)


@register_flop_formula(torch.ops.protoocc.deformable_attention_backward)
def _backward_flops(
    grad_out: Sequence[int], value: Sequence[int], locations: Sequence[int], weights: Sequence[int], *_: Any, **__: Any
) -> int:
    """Once for the gradients of locations and weights, once for the gradient of value."""
    return 2 * sampling_flops(value[3], weights)
