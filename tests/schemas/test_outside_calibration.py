"""Poses and camera matrices of strangers: the quick answer for all of them is the one of the checks that explain."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import DataError
from schemas.outside import Source, are_poses, check_intrinsics, check_poses

SOURCE = Source("meta.json")
TURNED = [[0, -1, 0, 1.5], [1, 0, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (None, 0.0, None),
        ((0, 0), 0.5, "no rotation"),
        ((2, 2), -1.0, "no rotation"),  # a mirror
        ((0, 0), 1e200, "no rotation"),
        ((3, 0), 0.1, "last row"),
        ((3, 3), 2.0, "last row"),
        ((1, 3), -9.0, None),
        ((1, 3), -11.0, "11 m away"),
    ],
)
def test_poses_at_once_and_one_by_one(place: tuple[int, int] | None, value: float, fault: str | None) -> None:
    poses = np.array([np.eye(4), TURNED])
    if place is not None:
        poses[1][place] = value
    assert are_poses(poses, np.array([1.0, 10.0])) == (fault is None)
    if fault is None:
        check_poses(SOURCE, "pose", poses, 10.0)
        return
    with pytest.raises(DataError, match=fault):
        check_poses(SOURCE, "pose", poses, 10.0)


def test_each_pose_has_its_own_reach() -> None:
    assert are_poses(np.array([TURNED, TURNED]), np.array([2.0, 2.0]))
    assert not are_poses(np.array([TURNED, TURNED]), np.array([2.0, 1.9]))


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (None, 0.0, None),
        ((0, 0), 0.5, "focal lengths"),
        ((1, 1), -100.0, "focal lengths"),
        ((0, 2), 2e6, "principal point"),
        ((0, 1), -2e6, "skew"),
        ((0, 1), 3.0, None),
        ((1, 0), 0.1, "below the diagonal"),
        ((2, 0), 0.1, "below the diagonal"),
        ((2, 2), 2.0, "below the diagonal"),
        ((1, 1), np.nan, "focal lengths"),
        ((1, 2), np.nan, "principal point"),
        ((2, 2), np.nan, "below the diagonal"),
    ],
)
def test_camera_matrices(place: tuple[int, int] | None, value: float, fault: str | None) -> None:
    matrices = np.array([[[100.0, 0, 50], [0, 90, 20], [0, 0, 1]]] * 2)
    if place is not None:
        matrices[1][place] = value
    if fault is None:
        check_intrinsics(SOURCE, "camera", matrices)
        return
    with pytest.raises(DataError, match=fault):
        check_intrinsics(SOURCE, "camera", matrices)
