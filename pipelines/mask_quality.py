"""How well the segments of one image fit exact segments: the usual measures of superpixels.

Source: Stutz, Hermans, Leibe, Superpixels: An Evaluation of the State-of-the-Art (CVIU 2018), section 5. All measures
compare two label maps of one image; none depends on how labels are numbered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Int64, Integer

TOLERANCE: Final = 0.0025
"""How far a border may be off to count as found, times the image's diagonal; at least one pixel."""


@dataclass(frozen=True)
class Fit:
    """Measures of one image, shares 0..1.

    Attributes:
        achievable_accuracy: pixels that are right when every segment gets the exact segment it shares most pixels with.
        boundary_recall: borders of exact segments with a border of a segment within the tolerance; 1 without any.
        undersegmentation_error: pixels by which segments leak over the borders of exact ones, each overlap counted with
            the smaller of its two parts (Neubert and Protzel 2012).
    """

    achievable_accuracy: float
    boundary_recall: float
    undersegmentation_error: float


def fit_of(segments: Integer[np.ndarray, "H W"], exact: Integer[np.ndarray, "H W"]) -> Fit:
    """Compares the segments of an image with exact ones.

    Args:
        segments: id of the segment of each pixel.
        exact: id of the thing or surface that each pixel shows.
    """
    overlaps, of_segment = _overlaps(segments, exact)
    sizes = np.bincount(of_segment, weights=overlaps)
    best = np.zeros(len(sizes))
    np.maximum.at(best, of_segment, overlaps)
    leaks = np.minimum(overlaps, sizes[of_segment] - overlaps)
    return Fit(
        achievable_accuracy=float(best.sum() / segments.size),
        boundary_recall=_boundary_recall(segments, exact),
        undersegmentation_error=float(leaks.sum() / segments.size),
    )


def _overlaps(
    segments: Integer[np.ndarray, "H W"], exact: Integer[np.ndarray, "H W"]
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Pixels that each pair of a segment and an exact one shares, where they share any, and the pair's segment."""
    first = np.unique(segments, return_inverse=True)[1].ravel().astype(np.int64)
    names, second = np.unique(exact, return_inverse=True)
    pairs, counts = np.unique(first * len(names) + second.ravel(), return_counts=True)
    return counts.astype(np.int64), pairs // len(names)


def _boundary_recall(segments: Integer[np.ndarray, "H W"], exact: Integer[np.ndarray, "H W"]) -> float:
    wanted = _borders(exact)
    if not wanted.any():
        return 1.0
    height, width = exact.shape
    reach = max(1, round(TOLERANCE * math.hypot(height, width)))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near = cv2.dilate(_borders(segments).astype(np.uint8), window) > 0
    return float((wanted & near).sum() / wanted.sum())


def _borders(labels: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose right or lower neighbour has another label."""
    borders = np.zeros(labels.shape, dtype=bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders
