"""Deformable attention as it is written: one sum over heads, levels, points and the four cells around a point."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from protoocc.model.deformable.layout import Layout


def attend(
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> Float[Tensor, "n heads c"]:
    """Deformable DETR, equation (3): sum over levels l and points p of weight A_lp times value at location p_lp.

    The value at a point (x, y), in cells with centres at whole numbers, is the sum over the cells (i, j) around it of
    max(0, 1 - |x - i|) * max(0, 1 - |y - j|) * value_ij. Slow and in the dtype of its tensors.
    """
    head = torch.arange(value.shape[2], device=value.device)[:, None]
    sampled = []
    for image, (start, stop) in zip(value, layout.rows(), strict=True):
        total = value.new_zeros(stop - start, *value.shape[2:])
        levels = image.split([height * width for height, width in layout.sizes])
        for level, (height, width) in enumerate(layout.sizes):
            x = locations[start:stop, :, level, :, 0] * width - 0.5
            y = locations[start:stop, :, level, :, 1] * height - 0.5
            for right in (0, 1):
                for down in (0, 1):
                    i, j = x.floor() + right, y.floor() + down
                    share = (1 - (x - i).abs()) * (1 - (y - j).abs()) * weights[start:stop, :, level]
                    inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
                    cell = torch.where(inside, j * width + i, 0).long()
                    total = total + (torch.where(inside, share, 0)[..., None] * levels[level][cell, head]).sum(2)
        sampled.append(total)
    return torch.cat(sampled)
