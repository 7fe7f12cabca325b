"""The bench of mask generators: what it compares, on a small model and a few photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.bench_masks import bench_masks
from pipelines.masks import SamConfig, SeedsConfig
from pipelines.masks.bench_sam import _least_iou, bench_sam
from tests.pipelines.test_masks_prompted import a_sam, an_image


def test_both_find_the_same_masks(tmp_path: Path) -> None:
    torch.save(a_sam().state_dict(), tmp_path / "sam.pth")
    config = SamConfig(checkpoint=tmp_path / "sam.pth", points_per_side=4, stability_score_thresh=0.5, box_nms_thresh=1)
    result = bench_sam(config, an_image(0), None)
    assert result.masks[0] == result.masks[1] > 3
    assert result.least_iou > 0.999
    for timing in (result.library, result.ours):
        assert 0 < timing.encoder_s < timing.total_s
    assert result.times_after_encoder == result.library.rest_s / result.ours.rest_s


def test_least_iou_is_that_of_the_worst_mask() -> None:
    """Masks of 2 and 4 pixels; found are the first and a half of the second."""
    expected = np.array([[[1, 1, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]], dtype=bool)
    found = expected.copy()
    found[1, 1, 2:] = False
    assert _least_iou(expected, expected[::-1]) == 1
    assert _least_iou(expected, found) == 0.5
    assert _least_iou(expected, found[:0]) == 0
    assert _least_iou(expected[:0], found) == 1


@pytest.mark.slow
def test_stage_and_bare_library_see_the_same_photos(tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.jpg" for number in range(6)]
    for number, photo in enumerate(photos):
        noise = np.random.default_rng(number).integers(0, 256, (45, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(photo), cv2.resize(noise, (1600, 900)))
    result = bench_masks(tmp_path / "bench", photos, 96, 1, SeedsConfig())
    assert (result.images, result.workers) == (576, 1)
    assert 0.2 < result.core_ratio < 1.2, "the stage does all that the bare library does, and little more"
    assert result.core_ratio == result.stage_per_core_s / result.bare_per_core_s
    assert result.ratio == result.stage_per_s / result.bare_per_s
