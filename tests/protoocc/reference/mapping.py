"""Section 3.2.1 in loops: clustering, aggregation (1a) and dispatch (1b)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tests.protoocc.reference.arithmetic import Matrix, Vector, cosine, linear, sigmoid, softmax, two_linears


def cell_means(features: list[Matrix], cell: int) -> Matrix:
    """Mean of every regular cell of ``features[channel][row][column]``, row by row; border cells may be smaller."""
    height, width = len(features[0]), len(features[0][0])
    means = []
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            rows, columns = range(top, min(top + cell, height)), range(left, min(left + cell, width))
            count = len(rows) * len(columns)
            means.append([sum(channel[r][c] for r in rows for c in columns) / count for channel in features])
    return means


def cluster(features: list[Matrix], cell: int, iterations: int, sharpness: float) -> Matrix:
    """P_img: cell means, then rounds of soft assignment; a prototype is the assignment-weighted mean of the pixels."""
    height, width = len(features[0]), len(features[0][0])
    pixels = [[channel[r][c] for channel in features] for r in range(height) for c in range(width)]
    prototypes = cell_means(features, cell)
    for _ in range(iterations):
        shares = [softmax([sharpness * cosine(pixel, prototype) for prototype in prototypes]) for pixel in pixels]
        prototypes = [weighted_mean(pixels, [share[m] for share in shares]) for m in range(len(prototypes))]
    return prototypes


def weighted_mean(vectors: Matrix, weights: Vector) -> Vector:
    """sum_i w_i v_i / sum_i w_i."""
    total = sum(weights)
    return [
        sum(weight * vector[c] for vector, weight in zip(vectors, weights, strict=True)) / total
        for c in range(len(vectors[0]))
    ]


def affinity(prototypes: Matrix, queries: Matrix) -> Matrix:
    """A[m][k]: cosine similarity of the lifted prototype m and hit query k."""
    return [[cosine(prototype, query) for query in queries] for prototype in prototypes]


def aggregate(prototypes: Matrix, queries: Matrix, assignment: Matrix) -> Matrix:
    """(1a): P_vox[m] = P_img[m] + sum_k s[m][k] Q'[k] / R[m] with R[m] = 1 + sum_k s[m][k]."""
    result = []
    for prototype, shares in zip(prototypes, assignment, strict=True):
        gathered = [
            sum(share * query[c] for share, query in zip(shares, queries, strict=True)) for c in range(len(prototype))
        ]
        total = 1.0 + sum(shares)
        result.append([value + added / total for value, added in zip(prototype, gathered, strict=True)])
    return result


def dispatch(queries: Matrix, assignment: Matrix, voxel_prototypes: Matrix, mlp: Callable[[Vector], Vector]) -> Matrix:
    """(1b): Q~[k] = Q'[k] + MLP(sum_m s[m][k] P_vox[m])."""
    result = []
    for k, query in enumerate(queries):
        sent = [
            sum(shares[k] * prototype[c] for shares, prototype in zip(assignment, voxel_prototypes, strict=True))
            for c in range(len(query))
        ]
        result.append([value + added for value, added in zip(query, mlp(sent), strict=True)])
    return result


def normalised(vector: Vector) -> Vector:
    """Less the mean over the channels, over the deviation; 1e-5 beside the variance."""
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in vector]


def image_waves(u: float, v: float, channels: int) -> Vector:
    """Sines, then cosines, of u and then v: phases pi * 2^f of -1..1, f even from 0 to 4; rms 1, zeros at the end."""
    count = channels // 4
    frequencies = [math.pi * 2.0 ** (4.0 * i / (count - 1) if count > 1 else 0.0) for i in range(count)]
    phases = [[(2.0 * place - 1.0) * frequency for frequency in frequencies] for place in (u, v)]
    waves = [math.sqrt(2.0) * value for axis in phases for value in [*map(math.sin, axis), *map(math.cos, axis)]]
    return waves + [0.0] * (channels - len(waves))


def placed(features: list[Matrix]) -> list[Matrix]:
    """A map ``features[channel][row][column]``, each cell normalised, with the waves of its middle added."""
    height, width, channels = len(features[0]), len(features[0][0]), len(features)
    result = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    for row in range(height):
        for column in range(width):
            cell = normalised([channel[row][column] for channel in features])
            waves = image_waves((column + 0.5) / width, (row + 0.5) / height, channels)
            for number in range(channels):
                result[number][row][column] = cell[number] + waves[number]
    return result


def standardised(similarity: Matrix) -> Matrix:
    """Each column less its mean, over its deviation; 1e-8 beside the variance."""
    result = [list(row) for row in similarity]
    for k in range(len(similarity[0])):
        column = [row[k] for row in similarity]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        for m, value in enumerate(column):
            result[m][k] = (value - mean) / math.sqrt(variance + 1e-8)
    return result


def map_prototypes(module: Any, prototypes: Matrix, queries: Matrix, places: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """(1a) and (1b) for one camera with the weights of a product's module: Q~, P_vox and A.

    A compares prototypes with normalised queries that carry the waves of their places, and is standardised; the sigmoid
    has a learned scale and shift, less the logarithm of the number of prototypes.
    """
    scale, shift = module.scale.item(), module.shift.item()
    weight, bias = module.project.weight.tolist(), module.project.bias.tolist()
    lifted = [linear(weight, bias, prototype) for prototype in prototypes]
    channels = len(prototypes[0])
    looking = [
        [value + wave for value, wave in zip(normalised(query), image_waves(u, v, channels), strict=True)]
        for query, (u, v) in zip(queries, places, strict=True)
    ]
    similarity = standardised(affinity(lifted, looking))
    assignment = [[sigmoid(scale * a + shift - math.log(len(prototypes))) for a in row] for row in similarity]
    voxel_prototypes = aggregate(lifted, queries, assignment)
    return dispatch(queries, assignment, voxel_prototypes, two_linears(module.dispatch)), voxel_prototypes, similarity
