"""The transpose of deformable attention: rows give what they hold to the cells of the map that they look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from protoocc.model.deformable import cpu, fastest
from protoocc.model.deformable.layout import Layout
from protoocc.model.deformable.op import deformable_op, sampling_flops


def spread(
    rows: Float[Tensor, "n c"],
    size: tuple[int, int],
    locations: Float[Tensor, "n points 2"],
    weights: Float[Tensor, "n points"],
    counts: Sequence[int],
) -> Float[Tensor, "maps cells c"]:
    """Adds each row, times its weights, bilinearly to the cells around its sampling points.

    With G (cells, n) the shares of the cells in what the rows read, as in `deformable_attention` with one head and one
    level, this is G @ rows, and G is never made: it would have as many numbers as there are rows times cells.

    Args:
        rows: what is given, map after map.
        size: (H, W) of each map.
        locations: sampling points as a share (u, v) of the map; what lies outside is lost.
        weights: of the points.
        counts: rows of each map; their sum is n.

    Returns:
        (maps, H * W, c), row by row, in the dtype of ``rows``. Differentiable in rows alone.

    Raises:
        ConfigError: shapes disagree.
    """
    places, shares = locations.detach()[:, None, None], weights.detach()[:, None, None]
    Layout((size,), tuple(counts)).check(rows.new_empty(len(counts), size[0] * size[1], 1, 0), places, shares)
    if fastest(rows) == "torch":
        return _spread_by_index(rows, size, locations.detach(), weights.detach(), counts)
    given: Tensor = spread_op(rows, places, shares, list(size), list(counts))
    return given


@torch.library.custom_op(
    "protoocc::spread",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor rows, Tensor locations, Tensor weights, SymInt[] size, SymInt[] counts) -> Tensor",
)
def spread_op(rows: Tensor, locations: Tensor, weights: Tensor, size: Sequence[int], counts: Sequence[int]) -> Tensor:
    """What attention of one head and one level hands back to the values that it has read."""
    value, layout = _nothing(rows, size, counts)
    return cpu.backward(rows[:, None], value, locations, weights, layout)[0].squeeze(2)


@spread_op.register_kernel("cuda")
def _spread_on_gpu(
    rows: Tensor, locations: Tensor, weights: Tensor, size: Sequence[int], counts: Sequence[int]
) -> Tensor:
    from protoocc.model.deformable import gpu

    value, layout = _nothing(rows, size, counts)
    return gpu.backward(rows[:, None], value, locations, weights, layout)[0].squeeze(2)


def _nothing(rows: Tensor, size: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, Layout]:
    """Maps of zeros, which the kernels read beside what they hand back."""
    height, width = size
    return rows.new_zeros(len(counts), height * width, 1, rows.shape[1]), Layout(((height, width),), tuple(counts))


@spread_op.register_fake
def _spread_shape(
    rows: Tensor, locations: Tensor, weights: Tensor, size: Sequence[int], counts: Sequence[int]
) -> Tensor:
    return rows.new_empty(len(counts), size[0] * size[1], rows.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, locations, weights, ctx.size, ctx.counts = inputs
    ctx.save_for_backward(locations, weights)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, None, None]:
    read: Tensor = deformable_op(grad_out[:, :, None], *ctx.saved_tensors, ctx.size, ctx.counts)
    return read[:, 0], None, None, None, None


spread_op.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.protoocc.spread)
def _flops(rows: Sequence[int], locations: Sequence[int], weights: Sequence[int], *_: Any, **__: Any) -> int:
    """As many as reading takes."""
    return sampling_flops(rows[1], weights)


def _spread_by_index(
    rows: Tensor, size: tuple[int, int], locations: Tensor, weights: Tensor, counts: Sequence[int]
) -> Tensor:
    """The same out of torch's operators, one point of all rows after the other, for what the kernels cannot take.

    One cell of border on the low side and two on the high side take what lies outside: no masks are needed.
    """
    height, width = size
    row_length, cells = width + 3, (height + 3) * (width + 3)
    first_cell = torch.arange(len(counts), device=rows.device).repeat_interleave(
        torch.tensor(counts, device=rows.device)
    )
    padded = rows.new_zeros(len(counts) * cells, rows.shape[1])
    for place, weight in zip(locations.unbind(1), weights.unbind(1), strict=True):
        u, v = (place[:, 0] * width - 0.5).clamp(-1.0, width), (place[:, 1] * height - 0.5).clamp(-1.0, height)
        left, top = u.floor(), v.floor()
        cell = first_cell * cells + (top.long() + 1) * row_length + left.long() + 1
        for down, side in ((0, weight * (1.0 - (v - top))), (row_length, weight * (v - top))):
            for right, share in ((0, side * (1.0 - (u - left))), (1, side * (u - left))):
                padded = padded.index_add(0, cell + down + right, (share[:, None] * rows).to(rows.dtype))
    inner = padded.view(len(counts), height + 3, row_length, -1)[:, 1 : height + 1, 1 : width + 1]
    return inner.flatten(1, 2)
