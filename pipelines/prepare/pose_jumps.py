"""Vehicle poses that cannot be: between two sweeps or images the vehicle would have moved or turned too fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.records import CameraRecord, LidarRecord, RigidPose, SampleRecord

FASTEST_MPS: Final = 60.0
"""No vehicle on a road is faster."""
FASTEST_TURN_RADPS: Final = 4.0
"""No vehicle on its wheels turns faster."""
_SHORTEST_S: Final = 0.01


class _Place(NamedTuple):
    """Vehicle pose of one sweep or image."""

    token: str
    """Of the sample that it belongs to."""
    path: str
    time_us: int
    pose: RigidPose


def find_jumps(records: Sequence[SampleRecord]) -> dict[str, str]:
    """Keyframes with a pose, of their own or of one of their sweeps, that does not fit the rest of the drive.

    The drive is cut where two poses in a row cannot be. Its longest part is believed, and every other part that can be
    reached from the parts believed so far, first forwards in time, then backwards. Without a LiDAR the poses are those
    of the cameras.

    Args:
        records: keyframes of one scene, in order of time.

    Returns:
        Token and what is wrong with it: file, movement, limit, remedy.
    """
    places = [
        _Place(record.token, sensor.path, sensor.timestamp_us, sensor.global_from_ego)
        for record in records
        for sensor in _sensors(record)
    ]
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


def _sensors(record: SampleRecord) -> Sequence[LidarRecord | CameraRecord]:
    if record.lidar is not None:
        return (*record.sweeps, record.lidar)
    return sorted(record.cameras.values(), key=lambda camera: camera.timestamp_us)


def _misfit(first: _Place, second: _Place) -> str | None:
    """What is impossible about two poses, None if nothing is."""
    seconds = max(abs(second.time_us - first.time_us) / 1e6, _SHORTEST_S)
    moved_m = math.dist(first.pose.translation_m, second.pose.translation_m)
    if not moved_m / seconds <= FASTEST_MPS:
        return f"{moved_m:.1f} m in {seconds:.2f} s (the limit is {FASTEST_MPS:.0f} m/s)"
    turned_rad = _turn_between(first.pose.rotation_wxyz, second.pose.rotation_wxyz)
    if not turned_rad / seconds <= FASTEST_TURN_RADPS:
        limit = math.degrees(FASTEST_TURN_RADPS)
        return (
            f"a turn of {math.degrees(turned_rad):.0f} degrees in {seconds:.2f} s (the limit is {limit:.0f} per second)"
        )
    return None


def _turn_between(first_wxyz: Sequence[float], second_wxyz: Sequence[float]) -> float:
    """Angle of the rotation from one quaternion to the other, radians: cos(angle / 2) = |first . second|."""
    product = abs(sum(a * b for a, b in zip(first_wxyz, second_wxyz, strict=True)))
    return 2 * math.acos(min(product / (math.hypot(*first_wxyz) * math.hypot(*second_wxyz)), 1.0))


def _message(place: _Place, believed: _Place, misfit: str) -> str:
    return (
        f"sample {place.token}: ego_pose of {place.path} jumps: from {believed.path} it is {misfit}. "
        "Correct the rows of ego_pose.json (SemanticKITTI: poses.txt), or leave such samples out with --on-error drop."
    )
