"""Section 3.3.1 in loops: spatial augmentations, their inverses, and the shared transposed convolution."""

from __future__ import annotations

import itertools
import math
from typing import Any

from tests.protoocc.reference.arithmetic import Vector

Volume = dict[tuple[int, int, int], Vector]
"""Channels by voxel (x, y, z)."""

Triple = tuple[int, int, int]


def moved(place: Triple, augmentation: str, shape: Triple) -> Triple:
    """Where a spatial augmentation puts a voxel of a volume of this shape."""
    x, y, z = place
    if augmentation == "transpose":
        return (y, x, z)
    if augmentation == "flip_x":
        return (shape[0] - 1 - x, y, z)
    if augmentation == "flip_y":
        return (x, shape[1] - 1 - y, z)
    return place


def augment(volume: Volume, augmentation: str) -> Volume:
    """The volume with every voxel at its new place."""
    return {moved(place, augmentation, extent(volume)): value for place, value in volume.items()}


def undo(volume: Volume, augmentation: str) -> Volume:
    """The volume with every voxel back at the place from which the augmentation took it."""
    return {place: volume[moved(place, augmentation, extent(volume))] for place in volume}


def extent(volume: Volume) -> Triple:
    """Voxels along x, y, z."""
    x, y, z = (max(place[axis] for place in volume) + 1 for axis in range(3))
    return (x, y, z)


def transposed_convolution(volume: Volume, weight: Any, bias: Vector, stride: Triple) -> Volume:
    """Every input voxel adds ``weight[in][out][a][b][c] * value`` to output voxel ``stride * place + abc - padding``.

    The padding (kernel - stride) / 2 makes the output ``stride`` times as large as the input.
    """
    kernel = (len(weight[0][0]), len(weight[0][0][0]), len(weight[0][0][0][0]))
    width, depth, height = (range(n * s) for n, s in zip(extent(volume), stride, strict=True))
    result = {place: list(bias) for place in itertools.product(width, depth, height)}
    for place, values in volume.items():
        for tap in itertools.product(*(range(k) for k in kernel)):
            x, y, z = (p * s + t - (k - s) // 2 for p, s, t, k in zip(place, stride, tap, kernel, strict=True))
            if (x, y, z) in result:
                for c, value in enumerate(values):
                    for out in range(len(bias)):
                        result[x, y, z][out] += weight[c][out][tap[0]][tap[1]][tap[2]] * value
    return result


def norm_and_relu(volume: Volume, norm: Any) -> Volume:
    """Batch norm with its stored mean and variance, then max(0, x)."""
    parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    means, variances, scales, shifts = (part.tolist() for part in parts)
    return {
        place: [
            max(0.0, (x - m) / math.sqrt(v + norm.eps) * scale + shift)
            for x, m, v, scale, shift in zip(values, means, variances, scales, shifts, strict=True)
        ]
        for place, values in volume.items()
    }
