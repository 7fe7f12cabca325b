"""What one gets without looking at an image: the most frequent class per voxel, and all free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from protoocc.data import ShardDataset
from schemas.classes import ClassTable


class FrequentClass:
    """Votes of the training split: which class each voxel has most often.

    Votes of samples whose cameras observe the voxel decide. Where no sample does, all known labels vote, and where
    there is none either, the voxel is free. Ties go to the lower class number. Observed votes make the stronger
    baseline on camera-observed voxels, because labels call most unobserved space free.
    """

    def __init__(self, shape: tuple[int, int, int], classes: ClassTable) -> None:
        """Starts without votes.

        Args:
            shape: X, Y, Z of the grid.
            classes: table of the labels.
        """
        self.classes = classes
        self.observed: Int32[np.ndarray, "L X Y Z"] = np.zeros((classes.num_classes, *shape), np.int32)
        self.hidden: Int32[np.ndarray, "L X Y Z"] = np.zeros((classes.num_classes, *shape), np.int32)

    def add(self, semantics: UInt8[np.ndarray, "X Y Z"], mask_camera: Bool[np.ndarray, "X Y Z"]) -> None:
        """Counts the labels of one sample; unknown ones do not vote."""
        known = semantics != self.classes.ignored
        for votes, chosen in ((self.observed, known & mask_camera), (self.hidden, known & ~mask_camera)):
            where = np.nonzero(chosen)
            votes[(semantics[where], *where)] += 1

    def prediction(self) -> UInt8[np.ndarray, "X Y Z"]:
        """The winning class of each voxel, the same for every sample."""
        seen = self.observed.any(axis=0)
        known = seen | self.hidden.any(axis=0)
        winner = np.where(seen, self.observed.argmax(axis=0), self.hidden.argmax(axis=0))
        return np.where(known, winner, self.classes.free).astype(np.uint8)


def frequent_class(
    dataset: ShardDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> UInt8[np.ndarray, "X Y Z"]:
    """The most frequent class per voxel over a split.

    Args:
        dataset: the training split; only labels are decoded.
        on_progress: called with the counted and the total number of samples.
    """
    votes = FrequentClass(dataset.shards.dataset.grid.shape, dataset.shards.dataset.classes)
    for index in dataset.arriving(range(len(dataset))):
        arrays = dataset.occupancy(index)
        votes.add(arrays["semantics"], arrays["mask_camera"] != 0)
        on_progress(index + 1, len(dataset))
    return votes.prediction()


def all_free(shape: tuple[int, int, int], classes: ClassTable) -> UInt8[np.ndarray, "X Y Z"]:
    """An empty world of X, Y, Z voxels."""
    return np.full(shape, classes.free, np.uint8)
