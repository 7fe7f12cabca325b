from __future__ import annotations

from pathlib import Path

import numpy as np

from protoocc.baselines import FrequentClass, all_free, frequent_class
from protoocc.data import ShardDataset, open_shards
from schemas.classes import OCC3D, ClassTable

CAR, BUS, ROAD, FREE, IGNORED = 4, 3, 11, 17, 255


def votes(*samples: tuple[list[int], list[int]]) -> list[int]:
    baseline = FrequentClass((4, 1, 1), OCC3D)
    for labels, seen in samples:
        baseline.add(np.array(labels, np.uint8).reshape(4, 1, 1), np.array(seen, bool).reshape(4, 1, 1))
    return baseline.prediction().ravel().tolist()


def test_most_frequent_observed_class_wins() -> None:
    seen = [1, 1, 1, 1]
    samples = [([CAR, ROAD, FREE, CAR], seen), ([CAR, FREE, FREE, BUS], seen), ([ROAD, FREE, ROAD, CAR], seen)]
    assert votes(*samples) == [CAR, FREE, FREE, CAR]


def test_observed_votes_go_before_hidden_ones() -> None:
    # Voxel 0: seen once as car, hidden twice as free. Voxel 1: never seen, hidden twice as road.
    samples = [
        ([CAR, ROAD, IGNORED, FREE], [1, 0, 1, 1]),
        ([FREE, ROAD, IGNORED, FREE], [0, 0, 1, 1]),
        ([FREE, FREE, IGNORED, FREE], [0, 0, 0, 1]),
    ]
    # Voxel 2: only unknown labels, so free.
    assert votes(*samples) == [CAR, ROAD, FREE, FREE]


def test_ties_go_to_the_lower_class_and_no_votes_mean_free() -> None:
    assert votes(([CAR, 0, 0, 0], [1, 0, 0, 0]), ([BUS, 0, 0, 0], [1, 0, 0, 0])) == [BUS, 0, 0, 0]
    assert votes() == [FREE] * 4


def test_all_free() -> None:
    assert np.array_equal(all_free((2, 3, 1), OCC3D), np.full((2, 3, 1), FREE))


def test_over_a_split(shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    world = frequent_class(ShardDataset(open_shards(shards, "train")), lambda done, total: seen.append((done, total)))
    # The road is everywhere, cars never stand twice in the same place, (0, 0, 3) is unknown.
    assert (world[:, :, 0] == ROAD).all()
    assert (world[:, :, 1:] == FREE).all()
    assert seen == [(i, 5) for i in range(1, 6)]


def test_free_may_be_any_class() -> None:
    """Class 0 is free and 9 unknown: what nobody knows becomes 0."""
    table = ClassTable(names=("empty", "car"), colors=((0, 0, 0), (1, 1, 1)), free=0, ignored=9)
    baseline = FrequentClass((3, 1, 1), table)
    baseline.add(np.array([1, 9, 0], np.uint8).reshape(3, 1, 1), np.ones((3, 1, 1), bool))
    assert baseline.prediction().ravel().tolist() == [1, 0, 0]
    assert not all_free((2, 2, 2), table).any()
