"""Deformable attention out of PyTorch's grid_sample: works on every device and dtype that it supports."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from protoocc.model.deformable.layout import Layout, working_dtype


def attend(
    value: Float[Tensor, "maps cells heads c"],
    locations: Float[Tensor, "n heads levels points 2"],
    weights: Float[Tensor, "n heads levels points"],
    layout: Layout,
) -> Float[Tensor, "n heads c"]:
    """Samples the rows of each map from each level, without padding; half precision is only for storing."""
    dtype = working_dtype(value, locations, weights)
    grids = (2.0 * locations.to(dtype) - 1.0).transpose(0, 1)
    shares = weights.to(dtype).transpose(0, 1)
    sampled = []
    for image, (start, stop) in zip(value.to(dtype).permute(0, 2, 3, 1), layout.rows(), strict=True):
        total = image.new_zeros(*image.shape[:2], stop - start)
        for level, (height, width, first) in enumerate(layout.levels() if stop > start else []):
            plane = image[..., first : first + height * width].unflatten(-1, (height, width))
            grid = grids[:, start:stop, level]
            points = functional.grid_sample(plane, grid, padding_mode="zeros", align_corners=False)
            total = total + (points * shares[:, None, start:stop, level]).sum(-1)
        sampled.append(total.permute(2, 0, 1))
    return torch.cat(sampled).to(value.dtype)
