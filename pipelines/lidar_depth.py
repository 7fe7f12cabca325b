"""Sparse depth of the network's images: points of the keyframe's LiDAR sweep, projected into each camera."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from schemas.geometry import project_points, transform_points

NEAREST_M: Final = 0.5
"""Points nearer to a camera than this are on the vehicle itself."""


class PixelPoints(NamedTuple):
    """Points in one camera's image, at most one for each pixel, in the order of rows."""

    row: Int64[np.ndarray, " n"]
    column: Int64[np.ndarray, " n"]
    depth_m: Float32[np.ndarray, " n"]
    """Along the camera's axis."""
    label: UInt8[np.ndarray, " n"]
    """Class of the dataset's table."""


def project_to_pixels(
    points_ego: Float[np.ndarray, "n 3"],
    labels: UInt8[np.ndarray, " n"],
    image_from_camera: Float[np.ndarray, "3 3"],
    camera_from_ego: Float[np.ndarray, "4 4"],
    shape: tuple[int, int],
) -> PixelPoints:
    """Points that land in an image; of several in one pixel the nearest, which hides the others.

    Args:
        points_ego: metres, ego frame.
        labels: class of each point.
        image_from_camera: intrinsics of the network's image, pixels.
        camera_from_ego: pose of the ego frame in the camera's, metres.
        shape: (H, W) of the network's image, pixels.
    """
    points_camera = transform_points(camera_from_ego, points_ego)
    ahead = points_camera[:, 2] > NEAREST_M
    uv_px, depth_m = project_points(image_from_camera, points_camera[ahead])
    inside = np.all((uv_px >= 0) & (uv_px < [shape[1], shape[0]]), axis=1)
    column, row = uv_px[inside].astype(np.int64).T
    order = np.lexsort([depth_m[inside], row * shape[1] + column])
    pixels = (row * shape[1] + column)[order]
    first = order[np.flatnonzero(np.diff(pixels, prepend=-1))]
    depth, label = depth_m[inside][first].astype(np.float32), labels[ahead][inside][first]
    return PixelPoints(row[first], column[first], depth, label)
