"""A smooth surface through heights that are known in places, which goes on beyond them."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import gaussian_filter, zoom

from pipelines.occupancy.tuning import GroundSurfaceConfig

_ANY_WEIGHT: Final = 1e-6
"""Gaussian weights below are nothing: no known height is near."""
_RIDGE: Final = 1.0
"""Added to the variances of a plane's fit, square voxels: heights of one column or line tilt no plane."""


def smooth_surface(
    height: Float64[np.ndarray, "w l"], known: Bool[np.ndarray, "w l"], config: GroundSurfaceConfig
) -> Float64[np.ndarray, "w l"]:
    """The trend of the known heights and, near them, the Gaussian mean of what they lie above it.

    s = t + G(k (h - t)) / G(k), with heights h, 1 or 0 for known or not k, trend t and the Gaussian filter G.

    Args:
        height: voxels, ``config.samples`` of them across a voxel; any number where not known.
        known: where a height is known; somewhere at least.
        config: widths of the filters.

    Source: normalised convolution (Knutsson and Westin 1993).
    """
    sigma = config.smooth_voxels * config.samples
    trend = _trend(height, known, config)
    weight = gaussian_filter(known.astype(np.float64), sigma)
    above = gaussian_filter(np.where(known, height - trend, 0.0), sigma)
    return trend + np.where(weight > _ANY_WEIGHT, above / np.maximum(weight, _ANY_WEIGHT), 0.0)


def _trend(
    height: Float64[np.ndarray, "w l"], known: Bool[np.ndarray, "w l"], config: GroundSurfaceConfig
) -> Float64[np.ndarray, "w l"]:
    """Plane through the known heights around each column, nearer ones counting more, so that slopes go on.

    With weighted means and (co)variances of column x, y and height z around a column, the plane through the mean is
    z = mean_z + slope_x (x - mean_x) + slope_y (y - mean_y), whose slopes solve

        (var_x + ridge) slope_x + cov_xy slope_y = cov_xz
        cov_xy slope_x + (var_y + ridge) slope_y = cov_yz

    Source: local linear regression (Cleveland 1979) with Gaussian weights; one known sample weighs 1.
    """
    weight, total = (_by_column(values, config.samples) for values in (known, np.where(known, height, 0.0)))
    x, y = np.indices(weight.shape)
    near = gaussian_filter(weight, config.trend_voxels)
    safe = np.maximum(near, _ANY_WEIGHT)

    def mean(weighted: Float64[np.ndarray, "c r"]) -> Float64[np.ndarray, "c r"]:
        return gaussian_filter(weighted, config.trend_voxels) / safe

    mean_x, mean_y, mean_z = mean(weight * x), mean(weight * y), mean(total)
    var_x = mean(weight * x * x) - mean_x * mean_x + _RIDGE
    var_y = mean(weight * y * y) - mean_y * mean_y + _RIDGE
    cov_xy = mean(weight * x * y) - mean_x * mean_y
    cov_xz, cov_yz = mean(total * x) - mean_x * mean_z, mean(total * y) - mean_y * mean_z
    determinant = var_x * var_y - cov_xy * cov_xy
    slope_x = (cov_xz * var_y - cov_yz * cov_xy) / determinant
    slope_y = (cov_yz * var_x - cov_xz * cov_xy) / determinant
    plane = mean_z + slope_x * (x - mean_x) + slope_y * (y - mean_y)
    fitted = np.where(near > _ANY_WEIGHT, plane, height[known].mean())
    return zoom(fitted, config.samples, order=1, mode="nearest", grid_mode=True)


def _by_column(
    values: Bool[np.ndarray, "w l"] | Float64[np.ndarray, "w l"], samples: int
) -> Float64[np.ndarray, "c r"]:
    """Sum over the samples of each column."""
    width, length = (size // samples for size in values.shape)
    return values.reshape(width, samples, length, samples).sum(axis=(1, 3)).astype(np.float64)
