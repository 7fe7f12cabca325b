"""Keyframes seen from the frame of the dataset's grid, for checks that measure in it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from schemas.geometry import Pose, VoxelGrid
from schemas.records import RigidPose, SampleRecord

_AT_ORIGIN = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(0.0, 0.0, 0.0))


def in_grid_frame(record: SampleRecord, grid: VoxelGrid) -> SampleRecord:
    """The keyframe with the grid's frame in place of its ego frame: label sets may live in the LiDAR's.

    Cameras and boxes hang on global poses, so all that follows from the copy is in the grid's frame.

    Args:
        record: the keyframe.
        grid: of its labels.

    Raises:
        DataError: the grid is in the frame of a LiDAR that the log lacks.
    """
    if grid.frame == "ego":
        return record
    global_from_lidar = _rigid(record.keyframe_sweep.global_from_lidar)
    lidar = record.keyframe_sweep.model_copy(
        update={"ego_from_lidar": _AT_ORIGIN, "global_from_ego": global_from_lidar}
    )
    return record.model_copy(update={"lidar": lidar, "global_from_vehicle": global_from_lidar})


def _rigid(pose: Pose) -> RigidPose:
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    translation: tuple[float, float, float] = tuple(np.asarray(pose[:3, 3]).tolist())
    return RigidPose(rotation_wxyz=(w, x, y, z), translation_m=translation)
