"""Counts of keyframes whose labels teach nothing: what `occupancy` and `pack` report and training refuses."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8

UNKNOWN: Final = "keyframes_unknown"
"""Count of keyframes in which no voxel has a known class."""
UNSEEN: Final = "keyframes_unseen"
"""Count of keyframes in which the cameras observe no voxel of known class, though there are some."""


def useless_counts(
    semantics: UInt8[np.ndarray, "X Y Z"], mask_camera: UInt8[np.ndarray, "X Y Z"], ignored: int
) -> dict[str, float]:
    """`UNKNOWN` and `UNSEEN` of one keyframe: one of them is 1 if its labels teach nothing.

    Args:
        semantics: its labels.
        mask_camera: 1 where a camera observes.
        ignored: label of the unknown class.
    """
    known = semantics != ignored
    is_unknown = not known.any()
    return {UNKNOWN: float(is_unknown), UNSEEN: float(not is_unknown and not (known & (mask_camera != 0)).any())}
