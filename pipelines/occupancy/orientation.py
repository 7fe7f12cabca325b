"""Other readings of a label array: axes exchanged or mirrored. Which of them do measured places fit?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

Index = Int64[np.ndarray, "n k 3"]
"""Voxels of N places, such as LiDAR returns (K = 1) or boxes with K points each."""


@dataclass(frozen=True)
class Reading:
    """How an array may have been written: x and y exchanged first, then axes mirrored."""

    exchanged: bool = False
    mirrored: tuple[int, ...] = ()
    """Axes that run backwards: 0 = x, 1 = y, 2 = z."""

    def __str__(self) -> str:
        words = ["x and y exchanged"] if self.exchanged else []
        words += [f"{' and '.join('xyz'[axis] for axis in self.mirrored)} mirrored"] if self.mirrored else []
        return " and ".join(words) or "as it is"

    def look_up(self, voxels: Bool[np.ndarray, "X Y Z"], index: Index) -> Bool[np.ndarray, " n"]:
        """Whether each place has a voxel that is True, if the array is read this way."""
        places = index.copy()
        for axis in self.mirrored:
            places[..., axis] = voxels.shape[axis] - 1 - places[..., axis]
        if self.exchanged:
            places = places[..., [1, 0, 2]]
        found: Bool[np.ndarray, " n"] = voxels[tuple(np.moveaxis(places, -1, 0))].any(axis=1)
        return found


AS_IT_IS: Final = Reading()


def other_readings(shape: tuple[int, ...]) -> Iterator[Reading]:
    """Every other way to read an array of that shape."""
    for exchanged in (False, True) if shape[0] == shape[1] else (False,):
        for mirrored in ((), (0,), (1,), (0, 1), (2,)):
            reading = Reading(exchanged, mirrored)
            if reading != AS_IT_IS:
                yield reading


@dataclass(frozen=True)
class Fit:
    """How many places fit an array as it is and in its best other reading."""

    places: int
    here: int
    """Places that fit as it is."""
    other: Reading
    there: int
    """Places that fit in the other reading."""

    @property
    def share(self) -> float:
        """Of places that fit as it is."""
        return self.here / self.places

    @property
    def gain(self) -> float:
        """By how much the share would rise in the other reading."""
        return (self.there - self.here) / self.places

    def __str__(self) -> str:
        return f"{self.share:.1%} of {self.places:,} as it is, {self.there / self.places:.1%} with {self.other}"


def best_other_fit(voxels: Bool[np.ndarray, "X Y Z"], index: Index) -> Fit:
    """Compares an array with its other readings at places that ought to have a True.

    Args:
        voxels: the array.
        index: voxels of the places, at least one, inside the array.
    """
    counts = {reading: int(reading.look_up(voxels, index).sum()) for reading in other_readings(voxels.shape)}
    best = max(counts, key=lambda reading: counts[reading])
    return Fit(len(index), int(AS_IT_IS.look_up(voxels, index).sum()), best, counts[best])
