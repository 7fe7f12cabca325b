"""From any number of overlapping masks to one label map that covers the image; label maps to the network's image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt16
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from schemas.errors import DataError
from schemas.images import ImageSpec
from schemas.store import NO_SEGMENT

OWN_REGION_SHARE: Final = 0.001
"""An uncovered region of at least this share of the image becomes a segment of its own."""


def paint_masks(masks: Sequence[Bool[np.ndarray, "H W"]], shape: tuple[int, int]) -> Int32[np.ndarray, "H W"]:
    """Disjoint segments: masks are painted from the largest to the smallest, so a small one keeps its pixels.

    Args:
        masks: masks (H, W), in any overlap, possibly none.
        shape: (H, W) in pixels.

    Returns:
        Labels (H, W) in 0..S-1, all of which occur, and -1 where no mask is.
    """
    labels = np.full(shape, -1, dtype=np.int32)
    areas = [int(mask.sum()) for mask in masks]
    for label in sorted(range(len(masks)), key=lambda index: (-areas[index], index)):
        labels[masks[label]] = label
    return _compact(labels)


def cover_gaps(labels: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Labels that cover the image.

    Of the pixels without a label, connected regions of 0.1 % of the image and more become segments of their own;
    smaller ones take the label of the nearest labelled pixel. An image without any label is one segment.

    Args:
        labels: labels (H, W) in 0..S-1, all of which occur, and -1 where none is.

    Returns:
        The same where there is no -1, else labels with more segments, all of which occur.
    """
    if int(labels.min()) >= 0:
        return labels
    return _compact(_fill_nearest(_add_own_regions(labels, first_label=int(labels.max()) + 1)))


def _compact(labels: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Numbers labels from 0 without gaps, in their order; -1 stays."""
    found, numbers = np.unique(labels, return_inverse=True)
    return (numbers.reshape(labels.shape) - int(found[0] < 0)).astype(np.int32)


def _add_own_regions(labels: Int32[np.ndarray, "H W"], *, first_label: int) -> Int32[np.ndarray, "H W"]:
    uncovered = (labels < 0).astype(np.uint8)
    _, regions, stats, _ = cv2.connectedComponentsWithStats(uncovered, connectivity=4)
    is_large = stats[:, cv2.CC_STAT_AREA] >= OWN_REGION_SHARE * labels.size
    is_own = is_large[regions] & (uncovered > 0)
    return np.where(is_own, first_label + regions, labels).astype(np.int32)


def _fill_nearest(labels: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    uncovered = labels < 0
    if not uncovered.any():
        return labels
    _, nearest = cv2.distanceTransformWithLabels(
        uncovered.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    label_of[nearest[~uncovered]] = labels[~uncovered]
    return np.where(uncovered, label_of[nearest], labels).astype(np.int32)


def connected_regions(labels: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Each connected region of one label (over the sides of pixels) as a segment of its own.

    Returns:
        Labels (H, W) in 0..S-1, in the order of the regions' first pixels, row by row.
    """
    pixels = np.arange(labels.size).reshape(labels.shape)
    right, below = labels[:, :-1] == labels[:, 1:], labels[:-1] == labels[1:]
    ends = np.concatenate([pixels[:, :-1][right], pixels[:-1][below]])
    others = np.concatenate([pixels[:, 1:][right], pixels[1:][below]])
    graph = coo_array((np.ones(len(ends), np.uint8), (ends, others)), shape=(labels.size, labels.size))
    _, region = connected_components(graph, directed=False)
    _, first, number = np.unique(region, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].reshape(labels.shape).astype(np.int32)


def to_network_image(
    labels: Integer[np.ndarray, "h w"], image: ImageSpec, file_size: tuple[int, int]
) -> UInt16[np.ndarray, "H W"]:
    """Segment ids of the network's image: nearest neighbour to ``image.resize``, then the crop.

    Args:
        labels: labels (h, w) of the whole image, any size.
        image: resize and crop.
        file_size: (width, height) of the camera's file, pixels.

    Returns:
        (H, W); the ids stay those of the whole image.

    Raises:
        DataError: more labels than uint16 holds.
    """
    if int(labels.max()) >= NO_SEGMENT:
        raise DataError(f"{int(labels.max()) + 1} segments in one image, at most {NO_SEGMENT} can be stored")
    left, top, width, height = image.crop
    size, resized = image.resized(file_size), labels.astype(np.uint16)
    if size != (labels.shape[1], labels.shape[0]):
        resized = np.asarray(cv2.resize(resized, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint16)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])
