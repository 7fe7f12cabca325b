"""The scene losses of MonoScene in loops: affinities of whole scenes and proportions in frusta."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.protoocc.reference.arithmetic import Matrix

Labels = Sequence[int]
Point = Sequence[float]


def affinity(hits: float, predicted: float, actual: float, rejected: float, others: float) -> float:
    """-log precision - log recall - log specificity, each left out where it is not defined."""
    cost = 0.0
    for part, whole in ((hits, predicted), (hits, actual), (rejected, others)):
        if whole > 0:
            cost -= math.log(part / whole)
    return cost


def sem_scal(probabilities: Matrix, labels: Labels) -> float:
    """Mean over the classes that occur, free space as well; 0 for no voxel."""
    costs = []
    for name in sorted(set(labels)):
        hits = predicted = actual = rejected = others = 0.0
        for row, label in zip(probabilities, labels, strict=True):
            predicted += row[name]
            if label == name:
                hits += row[name]
                actual += 1.0
            else:
                rejected += 1.0 - row[name]
                others += 1.0
        costs.append(affinity(hits, predicted, actual, rejected, others))
    return sum(costs) / len(costs) if costs else 0.0


def geo_scal(probabilities: Matrix, labels: Labels, free: int) -> float:
    """The same of one question, occupied or not; a scene without an occupied voxel asks for specificity alone."""
    hits = predicted = actual = rejected = others = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        occupied = sum(share for name, share in enumerate(row) if name != free)
        predicted += occupied
        if label != free:
            hits += occupied
            actual += 1.0
        else:
            rejected += row[free]
            others += 1.0
    return affinity(hits, predicted if actual > 0 else 0.0, actual, rejected, others)


def frustum_number(
    center_ego: Point, camera_from_ego: Matrix, intrinsics: Matrix, image_size: tuple[int, int]
) -> int | None:
    """Which of the 8 x 8 parts of an image shows a point, row by row; None behind the camera and beside the image."""
    place = [sum(camera_from_ego[i][j] * [*center_ego, 1.0][j] for j in range(4)) for i in range(3)]
    if place[2] <= 0.1:
        return None
    u, v, _ = (sum(intrinsics[i][j] * place[j] for j in range(3)) / place[2] for i in range(3))
    height, width = image_size
    for row in range(8):
        for column in range(8):
            inside_v = row * height / 8 <= v < (row + 1) * height / 8
            if inside_v and column * width / 8 <= u < (column + 1) * width / 8:
                return row * 8 + column
    return None


def frustum(probabilities: Matrix, labels: Labels, numbers: list[list[int | None]]) -> float:
    """Mean over the frusta of all cameras that hold a voxel of sum_c t_c log(t_c / p_c); 0 without one.

    ``numbers[camera][voxel]`` says where a voxel lies.
    """
    costs = []
    for camera in numbers:
        for name in range(64):
            inside = [voxel for voxel, number in enumerate(camera) if number == name]
            if not inside:
                continue
            cost = 0.0
            for c in range(len(probabilities[0])):
                target = sum(labels[voxel] == c for voxel in inside) / len(inside)
                told = sum(probabilities[voxel][c] for voxel in inside) / len(inside)
                if target > 0:
                    cost += target * math.log(target / told)
            costs.append(cost)
    return sum(costs) / len(costs) if costs else 0.0
