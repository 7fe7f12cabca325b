"""Vehicle poses that cannot be: between two LiDAR sweeps the vehicle would have moved or turned too fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.geometry import Pose
from schemas.records import LidarRecord, SampleRecord

FASTEST_MPS: Final = 60.0
"""No vehicle on a road is faster."""
FASTEST_TURN_RADPS: Final = 4.0
"""No vehicle on its wheels turns faster."""
_SHORTEST_S: Final = 0.01


@dataclass(frozen=True)
class _Place:
    """Pose of one sweep."""

    token: str
    """Of the sample that the sweep belongs to."""
    path: str
    time_us: int
    global_from_ego: Pose


def find_jumps(records: Sequence[SampleRecord]) -> dict[str, str]:
    """Keyframes with a pose, of their own or of one of their sweeps, that does not fit the rest of the drive.

    The drive is cut where two poses in a row cannot be. Its longest part is believed, and every other part that can be
    reached from the parts believed so far, first forwards in time, then backwards.

    Args:
        records: keyframes of one scene, in order of time.

    Returns:
        Token and what is wrong with it: file, movement, limit, remedy.
    """
    places = [_place(record, lidar) for record in records for lidar in (*record.sweeps, record.lidar)]
    parts: list[list[_Place]] = []
    for place in places:
        if parts and _misfit(parts[-1][-1], place) is None:
            parts[-1].append(place)
        else:
            parts.append([place])
    if len(parts) <= 1:
        return {}
    longest = max(range(len(parts)), key=lambda number: len(parts[number]))
    jumps: dict[str, str] = {}
    for numbers, end in ((range(longest + 1, len(parts)), -1), (range(longest - 1, -1, -1), 0)):
        believed = parts[longest][end]
        for number in numbers:
            misfit = _misfit(believed, parts[number][-1 - end])
            if misfit is None:
                believed = parts[number][end]
                continue
            for place in parts[number]:
                jumps.setdefault(place.token, _message(place, believed, misfit))
    return jumps


def _place(record: SampleRecord, lidar: LidarRecord) -> _Place:
    return _Place(record.token, lidar.path, lidar.timestamp_us, lidar.global_from_ego.matrix)


def _misfit(first: _Place, second: _Place) -> str | None:
    """What is impossible about two poses, None if nothing is."""
    seconds = max(abs(second.time_us - first.time_us) / 1e6, _SHORTEST_S)
    moved_m = float(np.linalg.norm(second.global_from_ego[:3, 3] - first.global_from_ego[:3, 3]))
    if not moved_m / seconds <= FASTEST_MPS:
        return f"{moved_m:.1f} m in {seconds:.2f} s (the limit is {FASTEST_MPS:.0f} m/s)"
    between = first.global_from_ego[:3, :3].T @ second.global_from_ego[:3, :3]
    turned_rad = float(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1)))
    if not turned_rad / seconds <= FASTEST_TURN_RADPS:
        limit = np.degrees(FASTEST_TURN_RADPS)
        return (
            f"a turn of {np.degrees(turned_rad):.0f} degrees in {seconds:.2f} s (the limit is {limit:.0f} per second)"
        )
    return None


def _message(place: _Place, believed: _Place, misfit: str) -> str:
    return (
        f"sample {place.token}: ego_pose of {place.path} jumps: from {believed.path} it is {misfit}. "
        "Correct the rows of ego_pose.json, or leave such samples out with --on-error drop."
    )
