"""What a pose and a camera can be: rotations, positive focal lengths, places on this planet."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from schemas.outside.limits import CENTER_PX, FOCAL_PX, ROTATION_ERROR
from schemas.outside.source import Source

_IDENTITY: Final = np.eye(3)
_LAST_ROW: Final = np.array([0.0, 0.0, 0.0, 1.0])
_SMALLEST_CAMERA: Final = np.array([[FOCAL_PX[0], -CENTER_PX, -CENTER_PX], [0, FOCAL_PX[0], -CENTER_PX], [0, 0, 1]])
_LARGEST_CAMERA: Final = np.array([[FOCAL_PX[1], CENTER_PX, CENTER_PX], [0, FOCAL_PX[1], CENTER_PX], [0, 0, 1]])
"""Bounds of each entry of a camera matrix."""


def are_poses(poses: Float[np.ndarray, "n 4 4"], reach_m: Float[np.ndarray, " n"]) -> bool:
    """Whether all of some poses are what `check_poses` asks of them, told at once: for readers of many samples.

    Args:
        poses: ``dst_from_src``, metres; finite.
        reach_m: largest absolute coordinate of each.
    """
    rotations = poses[:, :3, :3]
    with np.errstate(all="ignore"):
        products = rotations @ rotations.transpose(0, 2, 1)
        return bool(
            np.abs(products - _IDENTITY).max() <= ROTATION_ERROR
            and (np.linalg.det(rotations) > 0).all()
            and (poses[:, 3] == _LAST_ROW).all()
            and (np.abs(poses[:, :3, 3]).max(1) <= reach_m).all()
        )


def check_poses(source: Source, name: str, poses: Float[np.ndarray, "*n 4 4"], reach_m: float) -> None:
    """Checks rigid poses.

    Args:
        source: for messages.
        name: what they are.
        poses: ``dst_from_src``, metres.
        reach_m: largest absolute coordinate.

    Raises:
        DataError: not finite, no rotation (a mirror is none), no last row 0 0 0 1, or farther away than ``reach_m``.
    """
    rotations = poses[..., :3, :3]
    with np.errstate(all="ignore"):
        products = rotations @ np.swapaxes(rotations, -1, -2)
        turned = np.abs(products - np.eye(3)).max() <= ROTATION_ERROR and (np.linalg.det(rotations) > 0).all()
    if not turned:  # NaN compares as false
        raise source.error(f"{name} holds no rotation (R R^T is not the identity, or R is a mirror)")
    if (poses[..., 3, :] != (0, 0, 0, 1)).any():
        raise source.error(f"{name} holds no pose: the last row is not 0 0 0 1")
    farthest_m = np.abs(poses[..., :3, 3]).max()
    if not farthest_m <= reach_m:
        raise source.error(f"{name} holds a place {farthest_m:g} m away, at most {reach_m:g} m are possible")


def check_intrinsics(source: Source, name: str, matrices: Float[np.ndarray, "*n 3 3"]) -> None:
    """Checks camera matrices.

    Args:
        source: for messages.
        name: what they are.
        matrices: ``image_from_camera``, pixels.

    Raises:
        DataError: not finite, a focal length or principal point beyond `limits`, or entries below the diagonal.
    """
    if ((matrices >= _SMALLEST_CAMERA) & (matrices <= _LARGEST_CAMERA)).all():
        return
    focal = np.stack([matrices[..., 0, 0], matrices[..., 1, 1]])
    if not ((focal >= FOCAL_PX[0]) & (focal <= FOCAL_PX[1])).all():
        raise source.error(f"{name} holds focal lengths {focal.min():g} to {focal.max():g}, {FOCAL_PX} px are possible")
    rest = matrices[..., :2, 1:].copy()
    rest[..., 1, 0] = 0  # the focal length along v, checked above
    if not (np.abs(rest) <= CENTER_PX).all():
        raise source.error(f"{name} holds a principal point or skew beyond {CENTER_PX:g} px")
    if (matrices[..., 2, :] != (0, 0, 1)).any() or (matrices[..., 1, 0] != 0).any():
        raise source.error(f"{name} holds no camera matrix: entries below the diagonal are not 0 0 and 0 0 1")
