from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from protoocc.metrics import Confusion
from schemas.classes import OCC3D, ClassTable
from schemas.errors import DataError

FREE = 17


def line(*classes: int) -> np.ndarray:
    return np.array(classes, np.uint8).reshape(-1, 1, 1)


def scored(label: np.ndarray, prediction: np.ndarray, mask: np.ndarray | None = None) -> Confusion:
    confusion = Confusion(OCC3D)
    confusion.add(prediction, label, np.ones(label.shape, bool) if mask is None else mask)
    return confusion


def test_scores_by_hand() -> None:
    confusion = scored(line(4, 4, 4, 11, 11, FREE, FREE), line(4, 4, FREE, 11, 4, 11, FREE))
    scores = confusion.scores()
    # car: 2 hits, 3 labelled, 3 predicted -> 2 / 4; road: 1 hit, 2 labelled, 2 predicted -> 1 / 3.
    assert scores.classes["car"] == pytest.approx(1 / 2)
    assert scores.classes["driveable_surface"] == pytest.approx(1 / 3)
    assert scores.miou == pytest.approx((1 / 2 + 1 / 3) / 2)
    # Occupied in both: 4, 4, 11->11, 11->4 = 4; occupied in either: all but the last voxel = 6.
    assert scores.iou == pytest.approx(4 / 6)
    assert scores.voxels == 7


def test_masked_and_unknown_voxels_do_not_count() -> None:
    mask = line(1, 1, 0).astype(bool)
    scores = scored(line(4, 255, 4), line(4, 4, 11), mask).scores()
    assert (scores.voxels, scores.miou, scores.iou) == (1, 1.0, 1.0)


def test_absent_rules_differ_for_a_class_that_is_only_predicted() -> None:
    confusion = scored(line(4, FREE), line(4, 3))
    # car 1 / 1; bus predicted once, never labelled: 0 / 1 counts, or is left out.
    assert confusion.scores("original").miou == pytest.approx(0.5)
    assert confusion.scores("labelled").miou == pytest.approx(1.0)
    assert confusion.scores("original").classes["bus"] == 0.0
    assert math.isnan(confusion.scores("labelled").classes["bus"])


def test_others_counts_and_free_does_not() -> None:
    scores = scored(line(0, FREE), line(0, FREE)).scores()
    assert tuple(scores.classes) == OCC3D.names[:17]
    assert scores.classes["others"] == 1.0
    assert scores.miou == 1.0


def test_things_and_ground_are_scored_as_one_class_each() -> None:
    scores = scored(line(4, 4, 3, 11, 13, 13, FREE), line(3, 13, FREE, 13, 13, FREE, 16)).scores()
    # Things in both: 4->3 = 1; in either: 4, 4->13, 3->free, free->16 as well = 4.
    assert scores.things_iou == pytest.approx(1 / 4)
    # Ground in both: 11->13, 13->13 = 2; in either: 4->13 and 13->free as well = 4.
    assert scores.ground_iou == pytest.approx(2 / 4)
    # Occupied in both: 4->3, 4->13, 11, 13 = 4; all 7 are occupied in either.
    assert scores.iou == pytest.approx(4 / 7)


def test_a_table_without_ground_has_things_alone() -> None:
    table = ClassTable(names=("free", "wall"), colors=((0, 0, 0), (1, 1, 1)), free=0)
    confusion = Confusion(table)
    confusion.add(line(1, 1, 0), line(1, 0, 0), np.ones((3, 1, 1), bool))
    scores = confusion.scores()
    assert scores.things_iou == scores.iou == 0.5
    assert math.isnan(scores.ground_iou)


def test_nothing_scored_is_nan() -> None:
    empty = Confusion(OCC3D).scores()
    assert math.isnan(empty.miou) and math.isnan(empty.iou) and empty.voxels == 0
    free = scored(line(FREE), line(FREE)).scores()
    assert math.isnan(free.miou) and math.isnan(free.iou) and free.voxels == 1


def test_samples_are_added_up_not_averaged() -> None:
    confusion = scored(line(4), line(4))
    confusion.add(line(FREE, FREE, FREE), line(4, 4, 4), np.ones((3, 1, 1), bool))
    # 1 hit of 4 labelled; the mean per sample would be (1 + 0) / 2.
    assert confusion.scores().classes["car"] == pytest.approx(0.25)


def test_agrees_with_sklearn_on_random_volumes() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 18, (20, 20, 8), np.uint8)
    prediction = random.integers(0, 18, label.shape, np.uint8)
    mask = random.random(label.shape) < 0.3
    label[0] = 255
    known = mask & (label != 255)
    expected = confusion_matrix(label[known], prediction[known], labels=np.arange(18))
    assert np.array_equal(scored(label, prediction, mask).counts, expected)


def test_refuses_classes_outside_the_table() -> None:
    with pytest.raises(DataError, match="prediction holds class 18"):
        scored(line(4), line(18))
    with pytest.raises(DataError, match="prediction holds class 255"):
        scored(line(4), line(255))
    with pytest.raises(DataError, match="label holds class 200"):
        scored(line(200), line(4))


KITTI = ClassTable(
    names=("empty", "car", "road", "ghost"),
    colors=((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)),
    free=0,
    ignored=200,
    scored=("car", "road"),
)


def test_another_table_scores_its_own_classes() -> None:
    """Free is class 0, 200 is unknown, and `ghost` is shown without entering the mean."""
    confusion = Confusion(KITTI)
    confusion.add(line(1, 1, 0, 0, 3, 1, 1), line(1, 1, 2, 0, 3, 3, 200), np.ones((7, 1, 1), bool))
    scores = confusion.scores()
    # car: 2 hits, labelled twice, predicted 3 times -> 2 / 3; road never found; ghost 1 of 2.
    assert scores.classes == {"car": pytest.approx(2 / 3), "road": 0.0, "ghost": 0.5}
    assert scores.miou == pytest.approx((2 / 3 + 0) / 2)
    # Occupied in both: 1, 1, 3, 3 -> 4; in either: the same and the missed road.
    assert scores.iou == pytest.approx(4 / 5)
    assert scores.voxels == 6
    with pytest.raises(DataError, match=r"label holds class 255; the class table has 0..3 or 200 \(unknown\)"):
        confusion.add(line(0), line(255), np.ones((1, 1, 1), bool))
