"""What `occupancy` and `pack` say about keyframes whose labels are missing, untested or teach nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TEXTS: Final = {
    "keyframes_without_labels": "have no label file and are left out",
    "keyframes_without_pictures": "lack class images of some cameras; those refined nothing there",
    "keyframes_untested": "have neither LiDAR returns nor enough boxes to test the order of the labels' axes",
    "keyframes_unknown": "have labels of unknown class alone, which teach nothing",
    "keyframes_unseen": "have no voxel of known class that a camera observes, so they teach nothing",
}


def describe_counts(counts: Mapping[str, float]) -> list[str]:
    """One line for each count of `_TEXTS` that is not zero.

    Args:
        counts: of a stage's summary, by name (`pipelines.label_counts`, `pipelines.occupancy.importing`).
    """
    return [f"{counts[name]:.0f} keyframes {text}" for name, text in _TEXTS.items() if counts.get(name)]
