"""`poses.txt` and `times.txt` of a sequence, and the rotations of both text files made exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float64

from schemas.geometry import Pose, invert_rigid
from schemas.outside import Source, read_bytes, shorten
from schemas.outside.limits import LATEST_US, MEBIBYTE, ROTATION_ERROR
from schemas.records import RigidPose

_BYTES: Final = 64 * MEBIBYTE
"""Of a text file of numbers; the longest sequence has half a megabyte."""
_ROW: Final = 12
_POSES: Final = "Take the poses.txt that comes with SemanticKITTI's labels (data_odometry_labels.zip)."
_TIMES: Final = "Take the times.txt that comes with KITTI odometry (data_odometry_calib.zip)."


class Trajectory(NamedTuple):
    """Where the LiDAR was at each scan of a sequence."""

    global_from_lidar: Float64[np.ndarray, "n 4 4"]
    """The global frame is that of the LiDAR's first scan, if the first pose of camera 0 is the identity."""
    times_us: Sequence[int]


def read_trajectory(folder: Path, camera0_from_lidar: Pose) -> Trajectory:
    """Reads poses and times: global_from_lidar = Tr^-1 pose Tr, with pose = first camera 0 from camera 0.

    Args:
        folder: of the sequence.
        camera0_from_lidar: Tr of its calibration.

    Raises:
        DataError: a file is missing or broken, or they count different scans; names file, line and expectation.
    """
    path = folder / "poses.txt"
    source = Source(str(path), _POSES)
    poses = as_rigid(source, np.stack([values for _, values in read_numbers(source, path, named=False)]))
    times = read_times(folder)
    if len(poses) != len(times):
        raise Source(str(folder / "times.txt"), _TIMES).error(
            f"has {len(times)} times, poses.txt beside it {len(poses)} poses; each scan has one of both"
        )
    return Trajectory(invert_rigid(camera0_from_lidar) @ poses @ camera0_from_lidar, times)


def count_poses(folder: Path) -> int:
    """Number of lines of `poses.txt`, without a look at the rotations.

    Raises:
        DataError: the file is missing, empty or holds something else.
    """
    path = folder / "poses.txt"
    return len(read_numbers(Source(str(path), _POSES), path, named=False))


def read_times(folder: Path) -> list[int]:
    """Time of each scan since the first one, microseconds.

    Raises:
        DataError: the file is missing, holds something else than rising times, or one that no clock has.
    """
    path = folder / "times.txt"
    source = Source(str(path), _TIMES)
    times: list[int] = []
    for row, line in enumerate(_text(source, path).splitlines()):
        values = _numbers(line)
        if len(values) != 1 or not abs(values[0]) * 1e6 <= LATEST_US:
            raise source.error(f"line {row + 1} holds {shorten(line)}, expected a time in seconds")
        times.append(round(values[0] * 1e6))
        if row and times[row] <= times[row - 1]:
            raise source.error(f"line {row + 1} holds {line.strip()} s, which is not later than the line before")
    return times


def read_numbers(source: Source, path: Path, *, named: bool) -> list[tuple[str, Float64[np.ndarray, "3 4"]]]:
    """Lines of twelve numbers, 3x4 in row-major order, each behind a name and a colon if ``named``.

    Raises:
        DataError: no file, no line, or one with other than twelve finite numbers.
    """
    rows = []
    for number, line in enumerate(_text(source, path).splitlines()):
        if not line.strip():
            continue
        name, _, rest = line.partition(":") if named else ("", "", line)
        values = _numbers(rest)
        if len(values) != _ROW:
            raise source.error(f"line {number + 1} holds {shorten(line)}, expected {_ROW} numbers (3x4, row by row)")
        rows.append((name.strip(), np.array(values).reshape(3, 4)))
    if not rows:
        raise source.error("is empty")
    return rows


def _text(source: Source, path: Path) -> str:
    try:
        return read_bytes(source, path, _BYTES).decode()
    except UnicodeDecodeError as error:
        raise source.error("is no text") from error


def _numbers(text: str) -> list[float]:
    """Numbers of a text; none where one is no finite number."""
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def as_rigid(source: Source, matrices: Float64[np.ndarray, "n 3 4"]) -> Float64[np.ndarray, "n 4 4"]:
    """Matrices of a text file as poses, with the rotations nearest to what was written (all singular values 1).

    Raises:
        DataError: the left part of one is no rotation; names its number in the file.
    """
    rotations = matrices[:, :, :3]
    error = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    bad = ~(error <= ROTATION_ERROR) | (np.linalg.det(rotations) < 0)
    if bad.any():
        row = int(bad.argmax())
        raise source.error(f"pose {row + 1} is none: its 3x3 part {shorten(rotations[row].tolist())} is no rotation")
    left, _, right = np.linalg.svd(rotations)
    poses = np.tile(np.eye(4), (len(matrices), 1, 1))
    poses[:, :3, :3] = left @ right
    poses[:, :3, 3] = matrices[:, :, 3]
    return poses


def to_record(pose: Pose) -> RigidPose:
    """Quaternion and translation of a rigid pose; the quaternion's first number that is not 0 is positive.

    Of the four ways to divide, the one with the largest divisor is taken (Shepperd 1978).
    """
    r = pose[:3, :3]
    w, x, y, z = 1 + r[0, 0] + r[1, 1] + r[2, 2], *(1 + 2 * r[i, i] - np.trace(r) for i in range(3))
    rows = (
        (w, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]),
        (r[2, 1] - r[1, 2], x, r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]),
        (r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], y, r[1, 2] + r[2, 1]),
        (r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], z),
    )
    quaternion = np.array(rows[int(np.argmax((w, x, y, z)))])
    quaternion /= np.linalg.norm(quaternion)
    quaternion *= np.sign(quaternion[np.flatnonzero(quaternion)[0]])
    w, x, y, z = quaternion.tolist()
    t_x, t_y, t_z = pose[:3, 3].tolist()
    return RigidPose(rotation_wxyz=(w, x, y, z), translation_m=(t_x, t_y, t_z))
