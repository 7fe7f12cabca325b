"""Sections 3.2.2, 3.3.2 and 3.4 in loops: equations (3) to (6), cross entropy and Lovasz-softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.protoocc.reference.arithmetic import Matrix, Vector, cosine, softmax

Labels = list[int]


def cell_masks(segment_id: list[Labels], height: int, width: int, stride: int) -> list[int | None]:
    """Pseudo mask of each cell of the grid: that of the pixel in which its centre lies; None outside the image.

    A centre on the border of two pixels belongs to the one behind it.
    """
    masks: list[int | None] = []
    for row in range(height):
        for column in range(width):
            v, u = math.floor((row + 0.5) * stride), math.floor((column + 0.5) * stride)
            inside = v < len(segment_id) and u < len(segment_id[0])
            masks.append(segment_id[v][u] if inside else None)
    return masks


def contrast(features: Matrix, masks: Sequence[int | None], temperature: float) -> dict[int, float]:
    """(3): -log of the softmax over masks of <M_s, X> / tau at the cell's own mask, for every cell that has a mask.

    Masks are those that own a cell; a mask without cells has no mean and does not occur.
    """
    members: dict[int, list[int]] = {}
    for cell, mask in enumerate(masks):
        if mask is not None:
            members.setdefault(mask, []).append(cell)
    centroids = {
        mask: [sum(features[cell][c] for cell in cells) / len(cells) for c in range(len(features[0]))]
        for mask, cells in members.items()
    }
    losses = {}
    for mask, cells in members.items():
        for cell in cells:
            powers = {s: math.exp(cosine(m, features[cell]) / temperature) for s, m in centroids.items()}
            losses[cell] = -math.log(powers[mask] / sum(powers.values()))
    return losses


def mean_distribution(probabilities: list[Matrix]) -> Matrix:
    """Mean over the views of ``probabilities[view][voxel][class]``."""
    views = len(probabilities)
    return [
        [sum(view[voxel][c] for view in probabilities) / views for c in range(len(probabilities[0][0]))]
        for voxel in range(len(probabilities[0]))
    ]


def sharpen(distribution: Vector, temperature: float) -> Vector:
    """(4): p_c^(1/tau) / sum_c' p_c'^(1/tau)."""
    powers = [p ** (1.0 / temperature) for p in distribution]
    return [power / sum(powers) for power in powers]


def consistency(probabilities: list[Matrix], target: Matrix) -> float:
    """(5): 1 / (voxels (P + 1)) sum over views and voxels of || target - p ||^2."""
    total = 0.0
    for view in probabilities:
        for wanted, predicted in zip(target, view, strict=True):
            total += sum((t - p) ** 2 for t, p in zip(wanted, predicted, strict=True))
    return total / (len(target) * len(probabilities))


def cross_entropy(logits: Matrix, labels: Labels, class_weights: Sequence[float]) -> float:
    """Mean over the voxels, weighted by class, of -log softmax(logits)[label]; 0 for no voxel."""
    if not labels:
        return 0.0
    lost = [-class_weights[c] * math.log(softmax(x)[c]) for x, c in zip(logits, labels, strict=True)]
    return sum(lost) / sum(class_weights[c] for c in labels)


def lovasz(probabilities: Matrix, labels: Labels) -> float:
    """Lovasz-softmax, mean over the classes that occur; 0 for no voxel."""
    classes = sorted(set(labels))
    per_class = []
    for name in classes:
        foreground = {voxel for voxel, label in enumerate(labels) if label == name}
        errors = [1.0 - p[name] if voxel in foreground else p[name] for voxel, p in enumerate(probabilities)]
        per_class.append(jaccard_extension(errors, foreground))
    return sum(per_class) / len(classes) if classes else 0.0


def jaccard_extension(errors: Vector, foreground: set[int]) -> float:
    """Lovasz extension of the Jaccard loss, by its integral: int_0^1 loss({voxels with error >= t}) dt.

    No order among the voxels is needed: the loss is a step function of the threshold t.
    """
    thresholds = sorted({0.0, *errors})
    area = 0.0
    for low, high in zip(thresholds[:-1], thresholds[1:], strict=True):
        wrong = {voxel for voxel, error in enumerate(errors) if error >= high}
        area += (high - low) * (1.0 - len(foreground - wrong) / len(foreground | wrong))
    return area
