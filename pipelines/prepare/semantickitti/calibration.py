"""`calib.txt` of a sequence: where its cameras and its LiDAR are.

P0 to P3 (3x4) project points of camera 0 into the rectified images; Tr (3x4) brings points of the LiDAR into the frame
of camera 0. A projection is P = K [I | t] with t = K^-1 p4: camera i has the axes of camera 0 and stands at -t.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float64

from pipelines.prepare.semantickitti.trajectory import as_rigid, read_numbers
from schemas.errors import DataError
from schemas.geometry import Pose
from schemas.outside import Source
from schemas.outside.limits import FOCAL_PX

_LIDAR: Final = "Tr"
_REMEDY: Final = "Take the calib.txt that comes with SemanticKITTI or KITTI odometry."


class Calibration(NamedTuple):
    """The sensors of a sequence."""

    projections: Mapping[str, Float64[np.ndarray, "3 4"]]
    """P0 to P3, as far as the file has them: pixels of the image from metres of camera 0."""
    camera0_from_lidar: Pose
    """Tr."""


def read_calibration(path: Path) -> Calibration:
    """Reads `calib.txt`.

    Raises:
        DataError: the file or a line is missing or broken; names file, line, value and expectation.
    """
    source = Source(str(path), _REMEDY)
    rows = read_numbers(source, path, named=True)
    by_name = {name: values for name, values in rows if name}
    if _LIDAR not in by_name:
        known = ", ".join(by_name) or "none"
        raise source.error(f"line `{_LIDAR}:` is missing; lines there: {known}")
    lidar = as_rigid(Source(f"{path}, line {_LIDAR}", _REMEDY), by_name.pop(_LIDAR)[None])[0]
    return Calibration({name: values for name, values in by_name.items() if name.startswith("P")}, lidar)


class PlacedCamera(NamedTuple):
    """A camera as a record describes it."""

    intrinsics: Float64[np.ndarray, "3 3"]
    """Pixels."""
    camera_from_lidar: Pose


def place_camera(path: Path, calibration: Calibration, channel: str, *, exact: bool) -> PlacedCamera:
    """Camera of an image folder.

    Args:
        path: `calib.txt`, for messages.
        calibration: what it says.
        channel: `image_0` to `image_3`.
        exact: the camera stands where its projection says; otherwise where camera 0 does, as if p4 were 0.

    Raises:
        DataError: the file has no projection of that camera, or one that is none.
    """
    name = f"P{channel.removeprefix('image_')}"
    if name not in calibration.projections:
        raise DataError(
            f"{path}: no line `{name}:` for camera {channel}; lines there: {', '.join(calibration.projections)}. Name "
            "cameras as the folders image_0 to image_3, or complete the file."
        )
    projection = calibration.projections[name]
    intrinsics = projection[:, :3]
    focal = (intrinsics[0, 0], intrinsics[1, 1])
    upper = np.array_equal(np.tril(intrinsics, -1), np.zeros((3, 3))) and intrinsics[2, 2] == 1
    if not upper or not FOCAL_PX[0] <= min(focal) <= max(focal) <= FOCAL_PX[1]:
        raise DataError(
            f"{path}, line {name}: {intrinsics.tolist()} is no camera matrix (f 0 c / 0 f c / 0 0 1). {_REMEDY}"
        )
    camera_from_camera0 = np.eye(4)
    if exact:
        camera_from_camera0[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
    return PlacedCamera(intrinsics, camera_from_camera0 @ calibration.camera0_from_lidar)
