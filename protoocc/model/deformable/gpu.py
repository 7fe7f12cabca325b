"""GPU path: deformable attention forward and backward as two Triton kernels. Import it only where Triton is there."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32
from torch import Tensor

from protoocc.model.deformable.layout import Layout

ROWS_AT_ONCE = 16
"""Pairs of row and head that one program handles: 16 x 32 channels fill four warps with 16-byte loads."""


@triton.jit
@no_type_check
def _places(program, first_rows, heads, block: tl.constexpr):
    """Pairs (row, head) of one program of a map, flattened to row * heads + head, and which of them exist."""
    m = tl.program_id(1)
    start = tl.load(first_rows + m) * heads
    pair = start + program * block + tl.arange(0, block)
    return m, pair, pair < tl.load(first_rows + m + 1) * heads


@triton.jit
@no_type_check
def _coordinate(locations, at, live, size):
    """First of the two cells around a location on one axis, and the share of the second one.

    A location far outside or not a number counts as just outside, so that its share is finite. The share comes from one
    fused multiplication, so that it keeps all its digits in large maps.
    """
    location = tl.load(locations + at, mask=live, other=-2.0)
    location = tl.where((location > -2.0) & (location < 3.0), location, -2.0)
    low = tl.floor(location * size - 0.5)
    return low, tl.fma(location, tl.zeros_like(location) + size, -(low + 0.5))


@triton.jit
@no_type_check
def _corner(column, row, level, live):
    """Cell of a level (H, W, first cell) and whether it lies inside."""
    height, width, first = level
    inside = live & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    cell = first + tl.where(inside, row * width + column, 0.0).to(tl.int32)
    return cell, inside


@triton.jit
@no_type_check
def _level(levels, level):
    """(H, W, first cell) of a level."""
    return tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)


@triton.jit
@no_type_check
def _forward(
    value, locations, weights, out, levels, first_rows,
    cells, heads, level_count, points, channels: tl.constexpr, lanes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    m, pair, live = _places(tl.program_id(0), first_rows, heads, block)
    lane = tl.arange(0, lanes)
    used = lane < channels
    image = value + m.to(tl.int64) * cells * heads * channels
    within = (pair % heads)[:, None] * channels + lane[None, :]
    total = tl.zeros((block, lanes), dtype=tl.float32)
    for sample in range(level_count * points):
        level = _level(levels, sample // points)
        at = pair.to(tl.int64) * level_count * points + sample
        x0, x_share = _coordinate(locations, 2 * at, live, level[1])
        y0, y_share = _coordinate(locations, 2 * at + 1, live, level[0])
        weight = tl.load(weights + at, mask=live, other=0.0)
        for corner in tl.static_range(4):
            right, down = corner % 2, corner // 2
            share = (x_share if right else 1.0 - x_share) * (y_share if down else 1.0 - y_share)
            cell, inside = _corner(x0 + right, y0 + down, level, live)
            there = inside[:, None] & used[None, :]
            tile = tl.load(image + cell[:, None] * heads * channels + within, mask=there, other=0.0).to(tl.float32)
            total += (weight * share)[:, None] * tile
    place = pair.to(tl.int64)[:, None] * channels + lane[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=live[:, None] & used[None, :])


@triton.jit
@no_type_check
def _backward(
    grad_out, value, locations, weights, grad_value, grad_locations, grad_weights, levels, first_rows,
    cells, heads, level_count, points, channels: tl.constexpr, lanes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    m, pair, live = _places(tl.program_id(0), first_rows, heads, block)
    lane = tl.arange(0, lanes)
    used = lane < channels
    image = m.to(tl.int64) * cells * heads * channels
    within = (pair % heads)[:, None] * channels + lane[None, :]
    place = pair.to(tl.int64)[:, None] * channels + lane[None, :]
    gradient = tl.load(grad_out + place, mask=live[:, None] & used[None, :], other=0.0).to(tl.float32)
    for sample in range(level_count * points):
        level = _level(levels, sample // points)
        at = pair.to(tl.int64) * level_count * points + sample
        x0, x_share = _coordinate(locations, 2 * at, live, level[1])
        y0, y_share = _coordinate(locations, 2 * at + 1, live, level[0])
        weight = tl.load(weights + at, mask=live, other=0.0)
        by_weight = tl.zeros((block,), dtype=tl.float32)
        along_x, along_y = tl.zeros((block,), dtype=tl.float32), tl.zeros((block,), dtype=tl.float32)
        for corner in tl.static_range(4):
            right, down = corner % 2, corner // 2
            share_x, share_y = x_share if right else 1.0 - x_share, y_share if down else 1.0 - y_share
            cell, inside = _corner(x0 + right, y0 + down, level, live)
            there = inside[:, None] & used[None, :]
            offset = image + cell[:, None] * heads * channels + within
            tile = tl.load(value + offset, mask=there, other=0.0).to(tl.float32)
            tl.atomic_add(grad_value + offset, (weight * share_x * share_y)[:, None] * gradient, mask=there)
            product = tl.where(inside, tl.sum(tile * gradient, axis=1), 0.0)
            by_weight += share_x * share_y * product
            along_x += (share_y if right else -share_y) * product
            along_y += (share_x if down else -share_x) * product
        tl.store(grad_weights + at, by_weight, mask=live)
        tl.store(grad_locations + 2 * at, weight * level[1] * along_x, mask=live)
        tl.store(grad_locations + 2 * at + 1, weight * level[0] * along_y, mask=live)


@lru_cache(maxsize=16)
def _tables(layout: Layout, device: torch.device) -> tuple[Int32[Tensor, "levels 3"], Int32[Tensor, " maps_and_one"]]:
    """Levels (H, W, first cell), and the first row of each map followed by the number of rows."""
    levels = torch.tensor(layout.levels(), dtype=torch.int32, device=device)
    first_rows = [start for start, _ in layout.rows()] + [sum(layout.counts)]
    return levels, torch.tensor(first_rows, dtype=torch.int32, device=device)


def forward(
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> Float[Tensor, "n heads c"]:
    """Sampled values, in the dtype of ``value``; sums are float32."""
    out = value.new_zeros(*weights.shape[:2], value.shape[3])
    arguments = (value.contiguous(), locations.float().contiguous(), weights.float().contiguous(), out)
    _launch(_forward, arguments, tuple(value.shape), tuple(weights.shape), layout)
    return out


def backward(
    grad_out: Float[Tensor, "n heads c"],
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; what rows add to the same cell is added in no fixed order."""
    inputs = (value, locations, weights)
    gradients = [torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in inputs]
    arguments = (
        grad_out.contiguous(),
        value.contiguous(),
        locations.float().contiguous(),
        weights.float().contiguous(),
    )
    _launch(_backward, (*arguments, *gradients), tuple(value.shape), tuple(weights.shape), layout)
    grad_value, grad_locations, grad_weights = (g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True))
    return grad_value, grad_locations, grad_weights


@no_type_check
def _launch(kernel, arguments, value_shape, weights_shape, layout):
    """One program per block of pairs (row, head) of each map."""
    _, cells, heads, channels = value_shape
    most = max(layout.counts, default=0) * heads
    if most == 0 or arguments[0].numel() == 0:
        return
    device = arguments[0].device
    grid = (triton.cdiv(most, ROWS_AT_ONCE), len(layout.counts))
    lanes = triton.next_power_of_2(channels)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](
            *arguments, *_tables(layout, device), cells, heads, weights_shape[2], weights_shape[3],
            channels=channels, lanes=lanes, block=ROWS_AT_ONCE,
        )  # fmt: skip
