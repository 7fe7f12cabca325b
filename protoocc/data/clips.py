"""Images of the last keyframes that were read: in clips a keyframe is the present one once and an earlier one often."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from protoocc.data.decode import Views

KEPT_BYTES: Final = 128 * 2**20
"""Of images, in each process that reads: those of four frames of six cameras at 800 x 432, four keyframes apart."""


class RecentViews:
    """Decoded views by number of the sample; those that were not asked for the longest time go first."""

    def __init__(self, keyframes: int) -> None:
        """Holds nothing yet.

        Args:
            keyframes: so many are kept at most, and fewer where their images have more than `KEPT_BYTES`.
        """
        self.keyframes = keyframes
        self._kept: OrderedDict[int, Views] = OrderedDict()

    def keep(self, index: int, views: Views) -> None:
        """Keeps the images and calibration of a sample that was decoded."""
        self._kept[index] = _without_labels(views)
        self._kept.move_to_end(index)
        most = min(self.keyframes, KEPT_BYTES // views.images.nbytes)
        while len(self._kept) > most:
            self._kept.popitem(last=False)

    def get(self, index: int, decode: Callable[[int], Views]) -> Views:
        """Views of a sample, decoded where they are not kept."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        views = decode(index)
        self.keep(index, views)
        return views


def _without_labels(views: Views) -> Views:
    """The same images and copies of the small arrays, which nobody can change from outside."""
    lidar = views.ego_from_lidar
    return Views(
        images=views.images,
        image_from_camera=views.image_from_camera.copy(),
        camera_from_ego=views.camera_from_ego.copy(),
        global_from_ego=views.global_from_ego.copy(),
        ego_from_lidar=None if lidar is None else lidar.copy(),
    )
