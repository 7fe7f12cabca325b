"""CPU path: runs the compiled kernels, one task per head of each map, on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from protoocc.model.deformable.kernels import kernels
from protoocc.model.deformable.layout import Layout, working_dtype

Task = tuple[int, int, int, int]
"""Map, head, first row, last row + 1."""

THREADS_PAY_FROM = 1 << 20
"""Products of a weight and a value below which starting threads costs more than it saves (about a millisecond)."""


def forward(
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> Float[Tensor, "n heads c"]:
    """Sampled values, in the dtype of ``value``."""
    dtype = working_dtype(value, locations, weights)
    out = torch.zeros(*weights.shape[:2], value.shape[3], dtype=dtype)
    _run("forward", layout, (value, locations, weights), out)
    return out.to(value.dtype)


def backward(
    grad_out: Float[Tensor, "n heads c"],
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights in one pass, the same for any number of threads."""
    inputs = (value, locations, weights)
    dtype = working_dtype(*inputs)
    gradients = [torch.zeros(tensor.shape, dtype=dtype) for tensor in inputs]
    _run("backward", layout, inputs, grad_out, tuple(gradients))
    grad_value, grad_locations, grad_weights = (g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True))
    return grad_value, grad_locations, grad_weights


def _run(name: str, layout: Layout, inputs: tuple[Tensor, ...], *others: Tensor | tuple[Tensor, ...]) -> None:
    """Calls one kernel for every head of every map.

    Args:
        name: `forward` or `backward`.
        layout: maps, levels and rows.
        inputs: value, locations, weights.
        others: further arguments of the kernel; the last one receives the results.
    """
    maps, _, heads, channels = inputs[0].shape
    dtype = working_dtype(*inputs)

    def array(tensor: Tensor) -> np.ndarray:
        return tensor.detach().to(dtype).contiguous().numpy()

    arrays = [tuple(map(array, part)) if isinstance(part, tuple) else array(part) for part in (inputs, *others)]
    levels = np.array(layout.levels(), dtype=np.int64).reshape(-1, 3)
    kernel = getattr(kernels(channels, np.float64 if dtype == torch.float64 else np.float32), name)
    rows = layout.rows()
    tasks = [(m, h, *rows[m]) for m in range(maps) for h in range(heads) if layout.counts[m]]
    _for_each(lambda task: _call(kernel, task, levels, *arrays), tasks, cost=inputs[2].numel() * channels)


def _call(kernel: Callable[..., None], *arguments: object) -> None:
    """The kernel; where the disk cannot take the compiled code, that is no reason to stop: it is in memory by then."""
    try:
        kernel(*arguments)
    except OSError:
        kernel(*arguments)


def _for_each(work: Callable[[Task], None], tasks: Sequence[Task], *, cost: int) -> None:
    """Runs the tasks; they write to different places, so their order does not matter."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1 or cost < THREADS_PAY_FROM:
        for task in tasks:
            work(task)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, tasks))
