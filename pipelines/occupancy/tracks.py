"""Boxes at any time: between keyframes by instance, positions linear and rotations slerp."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.spatial.transform import Rotation

from schemas.errors import DataError
from schemas.records import BoxRecord, SampleRecord


@dataclass(frozen=True)
class BoxesAt:
    """All boxes of a scene at one time, small ones first."""

    instances: tuple[str, ...]
    global_from_box: Float64[np.ndarray, "b 4 4"]
    half_size_m: Float64[np.ndarray, "b 3"]
    is_certain: Bool[np.ndarray, " b"]
    """False where the box is extrapolated: its points are neither static nor the object's."""


@dataclass(frozen=True)
class Track:
    """One object through its keyframes."""

    instance: str
    label: int
    size_lwh_m: tuple[float, float, float]
    times_us: Int64[np.ndarray, " k"]
    centers_m: Float64[np.ndarray, "k 3"]
    rotations_xyzw: Float64[np.ndarray, "k 4"]

    def pose_at(self, time_us: int) -> Float64[np.ndarray, "4 4"]:
        """4x4 ``global_from_box``; outside the track at the speed of its nearest interval, without turning."""
        pose = np.eye(4)
        if len(self.times_us) == 1:
            pose[:3, :3] = Rotation.from_quat(self.rotations_xyzw[0]).as_matrix()
            pose[:3, 3] = self.centers_m[0]
            return pose
        later = int(np.clip(np.searchsorted(self.times_us, time_us), 1, len(self.times_us) - 1))
        start, stop = self.times_us[later - 1], self.times_us[later]
        share = (time_us - start) / (stop - start)
        pose[:3, 3] = (1 - share) * self.centers_m[later - 1] + share * self.centers_m[later]
        first, second = Rotation.from_quat(self.rotations_xyzw[later - 1 : later + 1])
        turn = (first.inv() * second).as_rotvec()
        pose[:3, :3] = (first * Rotation.from_rotvec(min(max(share, 0.0), 1.0) * turn)).as_matrix()
        return pose


def tracks_of(records: Sequence[SampleRecord]) -> list[Track]:
    """Tracks of one scene, ordered by volume, then instance token.

    Raises:
        DataError: a box has no positive size.
    """
    boxes: dict[str, list[tuple[int, BoxRecord]]] = defaultdict(list)
    for record in records:
        for box in record.boxes:
            if min(box.size_lwh_m) <= 0:
                raise DataError(f"box {box.token} (sample {record.token}): size {box.size_lwh_m} m must be positive")
            boxes[box.instance].append((record.keyframe_sweep.timestamp_us, box))
    tracks = [_track(instance, seen) for instance, seen in boxes.items()]
    return sorted(tracks, key=lambda track: (float(np.prod(track.size_lwh_m)), track.instance))


def _track(instance: str, seen: Sequence[tuple[int, BoxRecord]]) -> Track:
    quaternions = np.array([box.global_from_box.rotation_wxyz for _, box in seen], dtype=np.float64)
    return Track(
        instance=instance,
        label=seen[0][1].label,
        size_lwh_m=seen[0][1].size_lwh_m,
        times_us=np.array([time for time, _ in seen], dtype=np.int64),
        centers_m=np.array([box.global_from_box.translation_m for _, box in seen], dtype=np.float64),
        rotations_xyzw=quaternions[:, [1, 2, 3, 0]],
    )


def boxes_at(tracks: Sequence[Track], time_us: int, reach_us: int) -> BoxesAt:
    """Boxes that exist at a time.

    Args:
        tracks: of the scene.
        time_us: microseconds.
        reach_us: how long before its first and after its last keyframe a box is extrapolated, so that something that
            moves leaves no trail where its annotation starts late or ends early.
    """
    here = [t for t in tracks if t.times_us[0] - reach_us <= time_us <= t.times_us[-1] + reach_us]
    sizes = np.array([track.size_lwh_m for track in here], dtype=np.float64).reshape(-1, 3)
    return BoxesAt(
        instances=tuple(track.instance for track in here),
        global_from_box=np.array([track.pose_at(time_us) for track in here]).reshape(-1, 4, 4),
        half_size_m=sizes / 2,
        is_certain=np.array([t.times_us[0] <= time_us <= t.times_us[-1] for t in here], dtype=bool),
    )
