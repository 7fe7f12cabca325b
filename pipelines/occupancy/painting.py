"""Classes of LiDAR points from images: each point takes the class of the pixel that it lands in.

It stands in for the point labels of data that have none. A LiDAR above the cameras sees over what hides a point from
them, pixels beside a border may belong to either side, and two cameras may disagree: such points get no label here, and
take that of their neighbours later, as all points between keyframes do (`pipelines.occupancy.semantics`).

Source: PointPainting (Vora et al., CVPR 2020), section 3.1, with classes in place of scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy.ndimage import minimum_filter

from pipelines.points import UNLABELLED
from schemas.geometry import invert_rigid, project_points, transform_points
from schemas.records import CameraRecord, SampleRecord

NEAREST_M: Final = 0.5
"""Points nearer to a camera than this are on the vehicle itself."""
_CELLS: Final = 160
"""Cells across an image's width in which points hide each other."""
_HIDES: Final = 1.1
_HIDES_M: Final = 0.5
"""A point is hidden if one in its cell or beside it is nearer by more than a tenth and half a metre."""


def paint_points(
    points_lidar: Float64[np.ndarray, "n 3"],
    record: SampleRecord,
    images: Mapping[str, UInt8[np.ndarray, "h w"]],
    classes: UInt8[np.ndarray, " c"],
) -> UInt8[np.ndarray, " n"]:
    """Class of each point of a keyframe's own sweep.

    Args:
        points_lidar: metres, LiDAR frame.
        record: the keyframe, with its cameras at their own exposures.
        images: class of each pixel by camera, of the aspect of the camera's file, see `refine.read_class_images`.
        classes: those that images may tell; pixels of others say nothing.

    Returns:
        Some of ``classes``; `UNLABELLED` where no image tells one, or several tell different ones.
    """
    labels = np.full(len(points_lidar), UNLABELLED, np.uint8)
    contradicted = np.zeros(len(points_lidar), dtype=bool)
    points_global = transform_points(record.keyframe_sweep.global_from_lidar, points_lidar)
    for channel, image in images.items():
        seen, told = _look(points_global, record.cameras[channel], image, classes)
        contradicted[seen] |= (labels[seen] != UNLABELLED) & (labels[seen] != told)
        labels[seen] = told
    labels[contradicted] = UNLABELLED
    return labels


def _look(
    points_global: Float64[np.ndarray, "n 3"],
    camera: CameraRecord,
    image: UInt8[np.ndarray, "h w"],
    classes: UInt8[np.ndarray, " c"],
) -> tuple[Int64[np.ndarray, " k"], UInt8[np.ndarray, " k"]]:
    """Points whose class this camera tells, and the classes."""
    camera_from_global = invert_rigid(camera.global_from_ego.matrix @ camera.ego_from_camera.matrix)
    points_camera = transform_points(camera_from_global, points_global)
    ahead = np.flatnonzero(points_camera[:, 2] > NEAREST_M)
    uv_px, depth_m = project_points(np.array(camera.intrinsics), points_camera[ahead])
    share = uv_px / [camera.width, camera.height]
    inside = np.all((share >= 0) & (share < 1), axis=1)
    seen, share, depth_m = ahead[inside], share[inside], depth_m[inside]
    height, width = image.shape
    column, row = (share * [width, height]).astype(np.int64).T
    told = image[row, column]
    tells = np.isin(told, classes) & _is_clear(image)[row, column] & ~_hidden(share, depth_m)
    return seen[tells], told[tells]


def _is_clear(image: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose eight neighbours have the same class."""
    window = np.ones((3, 3), np.uint8)
    return cv2.erode(image, window) == cv2.dilate(image, window)


def _hidden(share: Float64[np.ndarray, "k 2"], depth_m: Float64[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Points with a much nearer one in their cell of the image or beside it."""
    column, row = (share * _CELLS).astype(np.int64).T
    nearest = np.full((_CELLS, _CELLS), np.inf)
    np.minimum.at(nearest, (row, column), depth_m)
    hider_m = minimum_filter(nearest, size=3)[row, column]
    return depth_m > hider_m * _HIDES + _HIDES_M
