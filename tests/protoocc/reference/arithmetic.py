"""The paper's equations as slow loops over Python floats: one number at a time, nothing shared with the product.

Vectors and matrices are nested lists; a tensor enters as ``tensor.tolist()``. A Python float has 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Vector = list[float]
Matrix = list[Vector]

TOLERANCE = 1e-9
"""Agreement of product and reference in float64; the project asks for 1e-6."""


def dot(one: Vector, other: Vector) -> float:
    """Sum of the products of two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def cosine(one: Vector, other: Vector) -> float:
    """Cosine similarity <a, b> / (|a| |b|), -1..1."""
    return dot(one, other) / (math.sqrt(dot(one, one)) * math.sqrt(dot(other, other)))


def sigmoid(value: float) -> float:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + math.exp(-value))


def softmax(values: Vector) -> Vector:
    """e^x_i / sum_j e^x_j."""
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def linear(weight: Matrix, bias: Vector, value: Vector) -> Vector:
    """W x + b."""
    return [dot(row, value) + shift for row, shift in zip(weight, bias, strict=True)]


def two_linears(layers: Any) -> Callable[[Vector], Vector]:
    """x -> W2 relu(W1 x + b1) + b2 of a product's ``Sequential(Linear, ReLU, Linear)``, read from its weights alone."""
    first, second = ((layer.weight.tolist(), layer.bias.tolist()) for layer in (layers[0], layers[2]))
    return lambda value: linear(*second, [max(0.0, x) for x in linear(*first, value)])


def assert_agrees(actual: Tensor, expected: Any) -> None:
    """The product's float64 numbers are the reference's, to `TOLERANCE`."""
    assert actual.dtype == torch.float64
    numbers = torch.tensor(expected, dtype=torch.float64)
    if numbers.numel() == 0:  # nested lists cannot tell (0, 4) from (0,)
        numbers = numbers.reshape(actual.shape)
    torch.testing.assert_close(actual.detach(), numbers, rtol=TOLERANCE, atol=TOLERANCE)


def slopes(function: Callable[[Tensor], float], at: Tensor, step: float = 1e-5) -> Tensor:
    """Gradient of a reference by central differences, entry by entry; its error is near step^2."""
    gradient = torch.zeros_like(at)
    for index in range(at.numel()):
        shift = torch.zeros(at.numel(), dtype=at.dtype)
        shift[index] = step
        shift = shift.view_as(at)
        gradient.view(-1)[index] = (function(at + shift) - function(at - shift)) / (2.0 * step)
    return gradient
