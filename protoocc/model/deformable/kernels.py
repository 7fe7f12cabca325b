"""CPU kernels of deformable attention: one head of one map at a time, so that no two tasks write to the same place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, cast, no_type_check

import numba
import numpy as np

FAST = {"contract", "reassoc", "nsz"}
"""Sums may be regrouped, which lets them run on vectors; NaN and infinity keep their meaning."""


class Kernels(NamedTuple):
    """Compiled loops for one number of channels and one dtype."""

    forward: Callable[..., None]
    backward: Callable[..., None]


@numba.njit(inline="always")
@no_type_check
def _corners(u, v, level):
    """Where a point lies among the cells of a level (H, W, first cell).

    Returns:
        whether any of its four cells (upper left, upper right, lower left, lower right) lies in the map, their places,
        its shares of the columns and rows (left, right, upper, lower; 0 outside), and 1 where that column or row
        exists. A cell outside is replaced by its neighbour inside.
    """
    height, width, first = level
    x, y = u * width - 0.5, v * height - 0.5
    if not (-1.0 < x < width and -1.0 < y < height):
        return False, (0, 0, 0, 0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    has_left, has_right = 1.0 if x0 >= 0 else 0.0, 1.0 if x0 + 1 < width else 0.0
    has_upper, has_lower = 1.0 if y0 >= 0 else 0.0, 1.0 if y0 + 1 < height else 0.0
    shares = (has_left * (x0 + 1 - x), has_right * (x - x0), has_upper * (y0 + 1 - y), has_lower * (y - y0))
    upper, lower = first + max(y0, 0) * width, first + min(y0 + 1, height - 1) * width
    left, right = max(x0, 0), min(x0 + 1, width - 1)
    cells = (upper + left, upper + right, lower + left, lower + right)
    return True, cells, shares, (has_left, has_right, has_upper, has_lower)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The function compiled by numba; kept on disk where numba finds a folder that can be written."""
    try:
        return cast(Callable[..., None], numba.njit(cache=True, nogil=True, fastmath=FAST)(function))
    except RuntimeError:
        return cast(Callable[..., None], numba.njit(nogil=True, fastmath=FAST)(function))


@lru_cache
def kernels(channels: int, real: type) -> Kernels:
    """Kernels whose inner loop has a fixed length, so that it runs on vectors.

    Both take the task (map, head, first row, last row + 1), the levels (H, W, first cell) and the inputs (value,
    locations, weights) as in `deformable_attention`.
    """
    return Kernels(_compiled(_forward(channels, real)), _compiled(_backward(channels, real)))


def _forward(channels: int, real: type) -> Callable[..., None]:
    """Adds what the task's rows sample to ``out``."""

    @no_type_check
    def forward(task, levels, inputs, out):
        m, h, first_row, last_row = task
        value, locations, weights = inputs
        for r in range(first_row, last_row):
            for level in range(len(levels)):
                for p in range(weights.shape[3]):
                    u, v = locations[r, h, level, p]
                    inside, (c00, c01, c10, c11), shares, _ = _corners(u, v, levels[level])
                    if not inside:
                        continue
                    weight = weights[r, h, level, p]
                    upper, lower = weight * shares[2], weight * shares[3]
                    a00, a01 = real(upper * shares[0]), real(upper * shares[1])
                    a10, a11 = real(lower * shares[0]), real(lower * shares[1])
                    for k in range(channels):
                        out[r, h, k] += (
                            a00 * value[m, c00, h, k]
                            + a01 * value[m, c01, h, k]
                            + a10 * value[m, c10, h, k]
                            + a11 * value[m, c11, h, k]
                        )

    return forward


def _backward(channels: int, real: type) -> Callable[..., None]:
    """Writes the gradients of the task's own part only: those of its map, of its rows and of its head."""

    @no_type_check
    def backward(task, levels, inputs, grad_out, gradients):
        m, h, first_row, last_row = task
        value, locations, weights = inputs
        grad_value, grad_locations, grad_weights = gradients
        zero = real(0.0)
        for r in range(first_row, last_row):
            for level in range(len(levels)):
                for p in range(weights.shape[3]):
                    u, v = locations[r, h, level, p]
                    inside, (c00, c01, c10, c11), shares, has = _corners(u, v, levels[level])
                    if not inside:
                        continue
                    weight = weights[r, h, level, p]
                    upper, lower = weight * shares[2], weight * shares[3]
                    a00, a01 = real(upper * shares[0]), real(upper * shares[1])
                    a10, a11 = real(lower * shares[0]), real(lower * shares[1])
                    d00 = d01 = d10 = d11 = zero
                    for k in range(channels):
                        g = grad_out[r, h, k]
                        d00 += g * value[m, c00, h, k]
                        d01 += g * value[m, c01, h, k]
                        grad_value[m, c00, h, k] += a00 * g
                        grad_value[m, c01, h, k] += a01 * g
                    for k in range(channels):
                        g = grad_out[r, h, k]
                        d10 += g * value[m, c10, h, k]
                        d11 += g * value[m, c11, h, k]
                        grad_value[m, c10, h, k] += a10 * g
                        grad_value[m, c11, h, k] += a11 * g
                    top, bottom = shares[0] * d00 + shares[1] * d01, shares[0] * d10 + shares[1] * d11
                    along_top, along_bottom = has[1] * d01 - has[0] * d00, has[1] * d11 - has[0] * d10
                    grad_weights[r, h, level, p] = shares[2] * top + shares[3] * bottom
                    grad_locations[r, h, level, p, 0] = (
                        weight * levels[level, 1] * (shares[2] * along_top + shares[3] * along_bottom)
                    )
                    grad_locations[r, h, level, p, 1] = weight * levels[level, 0] * (has[3] * bottom - has[2] * top)

    return backward
