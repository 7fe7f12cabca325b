"""Deformable attention: rows of queries gather values at a few points of their map (Deformable DETR, equation 3).

One function, four ways to compute it:
    reference: the formula as it is written, slow; what the others are tested against.
    numba: compiled loops on the CPU, forward and one pass for all gradients.
    triton: the same on a GPU.
    torch: grid_sample, for what the two cannot take.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from protoocc.model.deformable import grid, reference
from protoocc.model.deformable.layout import Layout
from protoocc.model.deformable.op import deformable_op
from schemas.errors import ConfigError

Implementation = Literal["reference", "torch", "numba", "triton"]

_DEVICES: dict[Implementation, tuple[str, ...]] = {"numba": ("cpu", "meta"), "triton": ("cuda",)}
"""Devices of the implementations that do not run everywhere; on `meta` only shapes are computed."""


def deformable_attention(
    value: Float[Tensor, "maps cells heads c"],
    sizes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    counts: Sequence[int],
    *,
    implementation: Implementation | None = None,
) -> Float[Tensor, "n heads c"]:
    """Weighted sum of bilinear samples of the map that each row looks at.

    Args:
        value: what can be read; the cells of all levels of a map one after the other, each row by row.
        sizes: (H, W) of each level; the sum of H * W is ``cells``.
        locations: sampling points as a share (u, v) of the map, 0..1; cell i of W covers [i/W, (i+1)/W). What lies
            outside contributes zero.
        weights: attention weights.
        counts: rows that look at each map, map after map; their sum is n. A map may have none.
        implementation: one by name; by default the fastest for the device and dtype of ``value``.

    Returns:
        (n, heads, c), in the dtype of ``value``. Differentiable once in value, locations and weights.

    Raises:
        ConfigError: shapes disagree, or the implementation does not run on this device.
    """
    layout = Layout(tuple((height, width) for height, width in sizes), tuple(counts))
    layout.check(value, locations, weights)
    chosen = implementation or fastest(value)
    if value.device.type not in _DEVICES.get(chosen, (value.device.type,)):
        raise ConfigError(
            f"deformable attention: implementation {chosen} runs on {' or '.join(_DEVICES[chosen])}, "
            f"the tensors are on {value.device}; move them or choose another one"
        )
    if chosen == "reference":
        return reference.attend(value, locations, weights, layout)
    if chosen == "torch":
        return grid.attend(value, locations, weights, layout)
    flat = [side for size in layout.sizes for side in size]
    return deformable_op(value, locations, weights, flat, list(layout.counts))


def fastest(value: Tensor) -> Implementation:
    """The implementation for tensors of this device and dtype; an exported graph holds torch's own operators."""
    if torch.compiler.is_exporting():
        return "torch"
    if value.device.type in _DEVICES["numba"]:
        return "numba"
    if value.device.type == "cuda" and value.dtype != torch.float64 and has_triton():
        return "triton"
    return "torch"


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None
