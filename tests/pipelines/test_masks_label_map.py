"""Overlapping masks to one covering label map, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.masks.label_map import connected_regions, cover_gaps, paint_masks, to_network_image
from schemas.errors import DataError
from schemas.images import ImageSpec


def mask(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    image = np.zeros(shape, dtype=bool)
    image[rows, columns] = True
    return image


def test_small_mask_wins() -> None:
    shape = (1, 6)
    small, large = mask(shape, slice(0, 1), slice(1, 3)), mask(shape, slice(0, 1), slice(0, 6))
    expected = [[1, 0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(paint_masks([small, large], shape), expected)
    np.testing.assert_array_equal(paint_masks([large, small], shape), [[0, 1, 1, 0, 0, 0]])


def test_hidden_mask_leaves_no_gap_in_the_labels() -> None:
    shape = (2, 2)
    everything = np.ones(shape, dtype=bool)
    tops = [mask(shape, slice(0, 1), slice(0, 2)), mask(shape, slice(1, 2), slice(0, 2))]
    labels = paint_masks([everything, *tops], shape)  # nothing of the first is left
    np.testing.assert_array_equal(labels, [[0, 0], [1, 1]])


def test_no_mask_is_one_segment() -> None:
    nothing = paint_masks([], (3, 4))
    np.testing.assert_array_equal(nothing, np.full((3, 4), -1))
    np.testing.assert_array_equal(cover_gaps(nothing), np.zeros((3, 4)))


def test_large_uncovered_region_is_a_segment_of_its_own() -> None:
    shape = (10, 10)
    painted = paint_masks([mask(shape, slice(0, 10), slice(4, 6))], shape)
    assert (painted < 0).sum() == 80 and (painted == 0).sum() == 20
    labels = cover_gaps(painted)
    # columns 0..3 and 6..9 are 40 % of the image each, and not connected
    np.testing.assert_array_equal(np.unique(labels[:, :4]), [1])
    np.testing.assert_array_equal(np.unique(labels[:, 4:6]), [0])
    np.testing.assert_array_equal(np.unique(labels[:, 6:]), [2])


def test_small_uncovered_region_takes_the_nearest_label() -> None:
    shape = (100, 100)  # 0.1 % are 10 pixels: 9 uncovered ones are filled, 10 are a segment
    left, right = mask(shape, slice(0, 100), slice(0, 50)), mask(shape, slice(0, 100), slice(50, 100))
    hole = left.copy()
    hole[20, 40:49] = False
    np.testing.assert_array_equal(cover_gaps(paint_masks([hole, right], shape)), np.where(left, 0, 1))
    hole[20, 39] = False
    labels = cover_gaps(paint_masks([hole, right], shape))
    assert labels.max() == 2
    assert (labels == 2).sum() == 10


def test_network_image_keeps_ids_and_crops_after_the_resize() -> None:
    labels = np.repeat(np.arange(6, dtype=np.int32)[:, None], 8, axis=1)  # id = row, 8x6 pixels
    # 8x6 -> 4x3 takes every second row; the crop then drops the first
    found = to_network_image(labels, ImageSpec(resize=(4, 3), crop=(1, 1, 2, 2)), (8, 6))
    assert found.dtype == np.uint16
    assert found.shape == (2, 2)
    assert (found[0, 0], found[1, 0]) in {(2, 4), (3, 5)}


def test_network_image_of_the_same_size_is_the_crop() -> None:
    labels = np.arange(12, dtype=np.int32).reshape(3, 4)
    found = to_network_image(labels, ImageSpec(resize=(4, 3), crop=(1, 1, 3, 2)), (8, 6))
    np.testing.assert_array_equal(found, [[5, 6, 7], [9, 10, 11]])


def test_too_many_segments_are_refused() -> None:
    labels = np.array([[0, 65535]], dtype=np.int32)
    with pytest.raises(DataError, match="65536 segments in one image, at most 65535"):
        to_network_image(labels, ImageSpec(resize=(2, 1), crop=(0, 0, 2, 1)), (8, 6))


def test_pieces_of_a_label_become_segments() -> None:
    """Label 5 lies in two pieces that touch at a corner only; regions count in the order of their first pixels."""
    labels = np.array([[5, 5, 2], [2, 2, 5], [2, 5, 5]], np.int32)
    assert connected_regions(labels).tolist() == [[0, 0, 1], [2, 2, 3], [2, 3, 3]]
    assert connected_regions(np.full((2, 3), 7, np.int32)).tolist() == [[0] * 3] * 2
