"""SemanticKITTI's scores: plain loops over voxels in place of counts, both conventions, and the ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protoocc.completion import CONVENTIONS, CompletionScores, completion_scores
from protoocc.metrics import Confusion
from protoocc.tally import Tally, Truth
from protoocc.zones import Zones
from schemas.classes import OCC3D, SEMANTICKITTI
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, VoxelGrid

HALF = VoxelGrid(minimum_m=(0.0, -3.2, -2.0), voxel_size_m=0.8, shape=(8, 8, 3))
"""Ahead 0 to 6.4 m, 3.2 m to either side: ranges of 1.6, 3.2 and 6.4 m are 2, 4 and 8 columns."""


def counted(label: np.ndarray, prediction: np.ndarray, mask: np.ndarray | None = None) -> Confusion:
    confusion = Confusion(SEMANTICKITTI)
    confusion.add(prediction, label, np.ones(label.shape, bool) if mask is None else mask)
    return confusion


def line(*classes: int) -> np.ndarray:
    return np.array(classes, np.uint8).reshape(-1, 1, 1)


def literal(label: np.ndarray, prediction: np.ndarray, mask: np.ndarray, epsilon: float) -> CompletionScores:
    """Voxel by voxel, without a confusion matrix; the small number of precision and recall left out."""
    hit = predicted = labelled = 0
    right, wrong, missed = [0] * 20, [0] * 20, [0] * 20
    for truth, guess, is_scored in zip(label.flat, prediction.flat, mask.flat, strict=True):
        if not is_scored or truth == 255:
            continue
        hit += truth > 0 and guess > 0
        predicted += guess > 0
        labelled += truth > 0
        if truth == guess:
            right[truth] += 1
        else:
            wrong[guess] += 1
            missed[truth] += 1
    shares = [right[n] / (right[n] + wrong[n] + missed[n] + epsilon) for n in range(1, 20)]
    return CompletionScores(
        iou=hit / (predicted + labelled - hit),
        precision=hit / predicted,
        recall=hit / labelled,
        miou=sum(shares) / 19,
    )


@pytest.mark.parametrize(("convention", "epsilon"), [("official", 1e-15), ("monoscene", 1e-5), ("symphonies", 1e-6)])
def test_agrees_with_plain_loops(convention: str, epsilon: float) -> None:
    random = np.random.default_rng(1)
    label = random.choice([0, 0, 0, 1, 9, 15, 19, 255], (9, 8, 7)).astype(np.uint8)
    prediction = np.where(random.random(label.shape) < 0.6, np.where(label == 255, 3, label), 0).astype(np.uint8)
    mask = random.random(label.shape) < 0.7
    expected = literal(label, prediction, mask, epsilon)
    scores = completion_scores(counted(label, prediction, mask), CONVENTIONS[convention])
    shares = [(scores.iou, expected.iou), (scores.miou, expected.miou)]
    assert all(one == pytest.approx(other, rel=1e-12) for one, other in shares)
    # The official program adds 1.2e-7 to the denominators of precision and recall.
    assert (scores.precision, scores.recall) == (
        pytest.approx(expected.precision, rel=1e-8),
        pytest.approx(expected.recall, rel=1e-8),
    )
    plain = counted(label, prediction, mask).scores()
    assert (plain.iou, plain.miou) == (pytest.approx(expected.iou), pytest.approx(expected.miou, rel=1e-5))
    assert (plain.precision, plain.recall) == (pytest.approx(expected.precision), pytest.approx(expected.recall))


def test_absent_classes_count_as_zero() -> None:
    """Road and pole found, the other 17 classes nowhere: the mean is 2 / 19."""
    confusion = counted(line(9, 9, 18, 0), line(9, 9, 18, 0))
    assert confusion.scores().miou == pytest.approx(2 / 19)
    assert confusion.scores().classes["car"] == 0
    assert confusion.scores("original").miou == 1
    assert completion_scores(confusion, CONVENTIONS["official"]).miou == pytest.approx(2 / 19, rel=1e-14)
    # One pole: 1 / (1 + 1e-5) instead of 1; road 2 / (2 + 1e-5).
    expected = (2 / 2.00001 + 1 / 1.00001) / 19
    assert completion_scores(confusion, CONVENTIONS["monoscene"]).miou == pytest.approx(expected, rel=1e-14)


def test_precision_and_recall_by_hand() -> None:
    # Label occupied: 1, 9, 9, 15; predicted occupied: 1 (as 2), 9, the free one twice.
    confusion = counted(line(1, 9, 9, 15, 0, 0, 0, 255), line(2, 9, 0, 0, 1, 1, 0, 9))
    scores = confusion.scores()
    assert (scores.iou, scores.precision, scores.recall) == (2 / 6, 2 / 4, 2 / 4)
    occ3d = Confusion(OCC3D)
    occ3d.add(line(4, 17, 11), line(4, 17, 17), np.ones((3, 1, 1), bool))
    assert (occ3d.scores().precision, occ3d.scores().recall) == (1 / 2, 1.0)


def test_nothing_occupied() -> None:
    """The official program has 0 / 0 for IoU; the papers' programs say 0; precision needs a prediction."""
    confusion = counted(line(0, 0), line(0, 0))
    official, peer = (completion_scores(confusion, CONVENTIONS[name]) for name in ("official", "symphonies"))
    assert math.isnan(official.iou) and (official.precision, official.recall, official.miou) == (0, 0, 0)
    assert peer == CompletionScores(0.0, 0.0, 0.0, 0.0)
    assert math.isnan(confusion.scores().precision) and math.isnan(confusion.scores().recall)
    missed = completion_scores(counted(line(1, 0), line(0, 1)), CONVENTIONS["symphonies"])
    assert missed == CompletionScores(0.0, 0.0, 0.0, 0.0)


def test_counts_are_exact_beyond_32_bit_floats() -> None:
    confusion = Confusion(SEMANTICKITTI)
    confusion.counts[9, 9], confusion.counts[0, 9] = 2**24, 1
    confusion.counts[9, 9] += 1
    assert completion_scores(confusion, CONVENTIONS["official"]).iou == (2**24 + 1) / (2**24 + 2)


def test_ranges_of_semantickitti() -> None:
    """Published boxes: 12.8 m is x < 64, 96 <= y < 160; 25.6 m is x < 128, 64 <= y < 192; all heights."""
    zones = Zones.of(SEMANTICKITTI_GRID)
    assert zones.ranges == ("12.8 m", "25.6 m", "51.2 m")
    expected = np.full((256, 256, 32), 2)
    expected[:128, 64:192] = 1
    expected[:64, 96:160] = 0
    assert np.array_equal(zones.index // (len(zones.rings) * len(zones.bands)), expected)
    # Heights above the road, 1.73 m below the LiDAR: the middles of the layers lie -0.17, 0.03 | 0.23 .. above it.
    assert (zones.index[200, 128] % 5).tolist() == [0] * 2 + [1] * 4 + [2] * 5 + [3] * 10 + [4] * 11
    assert Zones.of(OCC3D_GRID).ranges == () and Zones.of(OCC3D_GRID).shells == 1


def test_ranges_count_all_that_lies_within() -> None:
    random = np.random.default_rng(2)
    label = random.choice([0, 1, 9, 255], HALF.shape).astype(np.uint8)
    prediction = random.choice([0, 1, 9], HALF.shape).astype(np.uint8)
    seen, lidar = random.random(HALF.shape) < 0.5, random.random(HALF.shape) < 0.5
    zones = Zones.of(HALF)
    assert zones.ranges == ("1.6 m", "3.2 m", "6.4 m")
    tally = Tally(SEMANTICKITTI, zones)
    tally.add(prediction, Truth(label, seen, lidar))
    for number, (depth, low, high) in enumerate([(2, 3, 5), (4, 2, 6), (8, 0, 8)]):
        inside = np.zeros(HALF.shape, bool)
        inside[:depth, low:high] = True
        expected = counted(label, prediction, seen & inside)
        assert np.array_equal(tally.confusion("camera", within=number).counts, expected.counts)
    rings = sum(tally.confusion("none", ring=number).counts for number in range(len(zones.rings)))
    assert np.array_equal(rings, counted(label, prediction).counts)
