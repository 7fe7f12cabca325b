"""LiDAR files as rows of float32: are there as many values per point as the dataset's entry says, and can they be?"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from schemas.errors import DataError
from schemas.outside.limits import LIDAR_M

VALUE_BYTES: Final = 4
"""Points are float32 in little-endian order."""
HEAD_VALUES: Final = 16_384
"""So many values at the start of a file tell how many belong to a point."""
_FEWEST_VALUES: Final = 4000
_COLUMNS: Final = range(3, 13)
_LARGEST_STEP: Final = 100.0
_CLEARLY: Final = 0.93
_CLEARLY_MULTIPLE: Final = 0.6


def check_columns(where: str, values: Float32[np.ndarray, " n"], columns: int, num_values: int) -> None:
    """Checks how many values belong to a point.

    Values of the same kind differ less than values of different kinds: of all distances between values, that of the
    next point has the smallest mean difference, also where points come in no order. Multiples of the true number come
    close; two points taken for one differ clearly more.

    Args:
        where: file and sample, for the message.
        values: start of the file; fewer than 4000 values tell nothing.
        columns: number that the dataset's entry says.
        num_values: values of the whole file.

    Raises:
        DataError: another number fits better; names it and the setting.
    """
    if len(values) < _FEWEST_VALUES or not np.isfinite(values).all():
        return
    change = {number: _mean_step(values, number) for number in {*_COLUMNS, columns} if num_values % number == 0}
    best = min(change, key=lambda number: change[number])
    factor = _CLEARLY_MULTIPLE if best % columns == 0 else _CLEARLY
    if best != columns and change[best] < factor * change[columns]:
        raise DataError(
            f"{where}: implausible with {columns} float32 per point, {best} fit: values of neighbouring points then "
            f"differ by {change[best]:.3g} on average instead of {change[columns]:.3g}. Set `point_columns: {best}` in "
            "datasets.yaml, or copy the file again."
        )


def _mean_step(values: Float32[np.ndarray, " n"], distance: int) -> float:
    steps = np.abs(values[distance:].astype(np.float64) - values[:-distance])
    return float(np.minimum(steps, _LARGEST_STEP).mean())


def check_points(where: str, points: Float32[np.ndarray, "n 3"] | Float64[np.ndarray, "n 3"]) -> None:
    """Checks that points lie where a LiDAR sees.

    Args:
        where: file and sample, for the message.
        points: metres, LiDAR frame.

    Raises:
        DataError: a coordinate is NaN, infinite or beyond `limits.LIDAR_M`; names the point.
    """
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise DataError(f"{where}: point {int(bad.argmax())} has a NaN or infinite coordinate")
    far = (np.abs(points) > LIDAR_M).any(axis=1)
    if far.any():
        point = [float(f"{value:.6g}") for value in points[far.argmax()]]
        raise DataError(
            f"{where}: point {int(far.argmax())} of {len(points)} lies at {point} m; no LiDAR sees beyond {LIDAR_M:g} "
            "m. Points are float32 x, y, z and further values in metres: correct `point_columns` in datasets.yaml or "
            "the file"
        )
