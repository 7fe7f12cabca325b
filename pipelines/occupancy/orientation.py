"""Other readings of a label array: axes exchanged or mirrored. Which of them do measured places fit?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from schemas.geometry import VoxelGrid


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

    def look_up(
        self, voxels: Bool[np.ndarray, "X Y Z"], index: Int64[np.ndarray, "n 3"]
    ) -> Bool[np.ndarray, " n"]:
        """Values of the array at places of the grid, if it is read this way."""
        places = index.copy()
        for axis in self.mirrored:
            places[:, axis] = voxels.shape[axis] - 1 - places[:, axis]
        if self.exchanged:
            places = places[:, [1, 0, 2]]
        return voxels[tuple(places.T)]


AS_IT_IS = Reading()


def other_readings(grid: VoxelGrid) -> Iterator[Reading]:
    """Every other way to read an array of the grid's shape."""
    for exchanged in (False, True) if grid.shape[0] == grid.shape[1] else (False,):
        for mirrored in ((), (0,), (1,), (0, 1), (2,)):
            reading = Reading(exchanged, mirrored)
            if reading != AS_IT_IS:
                yield reading


@dataclass(frozen=True)
class Fit:
    """How many places fit an array as it is and in its best other reading."""

    places: int
    fit: int
    """Places that fit as it is."""
    other: Reading
    other_fit: int
    only_here: int
    """Places that fit as it is and not in the other reading."""
    only_there: int

    def text(self, what: str) -> str:
        """One sentence with both shares."""
        shares = [f"{100 * part / self.places:.1f} %" for part in (self.fit, self.other_fit)]
        return f"{shares[0]} of {self.places} {what}, {shares[1]} with {self.other}"


def best_other_fit(voxels: Bool[np.ndarray, "X Y Z"], index: Int64[np.ndarray, "n 3"], grid: VoxelGrid) -> Fit:
    """Compares an array with its other readings at places that ought to be True.

    Args:
        voxels: the array.
        index: (N, 3) voxels inside the grid.
        grid: of the array.
    """
    here = AS_IT_IS.look_up(voxels, index)
    there = {reading: reading.look_up(voxels, index) for reading in other_readings(grid)}
    best = max(there, key=lambda reading: int(there[reading].sum()))
    counts = [int(values.sum()) for values in (here, there[best], here & ~there[best], there[best] & ~here)]
    return Fit(len(index), counts[0], best, counts[1], counts[2], counts[3])
