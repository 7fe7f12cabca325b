"""Where the voxel pictures are taken from: straight above, and from behind and above the vehicle."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from protoocc.view.outline import draw_outlines
from protoocc.view.paint import PALE, Paint, Palette
from protoocc.view.raycast import RayBundle, draw_voxels
from schemas.geometry import VoxelGrid

PANEL_COLOR = (246, 247, 249)
FLOOR_COLOR = (233, 236, 240)
LINE_COLOR = (214, 219, 226)
SUPERSAMPLING = 2
"""Rays per pixel along each axis; the mean of their squares smooths the edges."""


def top_view(paint: Paint, palette: Palette, size_px: int) -> UInt8[np.ndarray, "size_px size_px 3"]:
    """Orthographic picture from above: x forward is up, y left is left.

    Args:
        paint: palette row per voxel. Columns that hold voxels of full colour show the highest of those; pale voxels
            above them are left out.
        palette: RGB of each paint.
        size_px: edge of the picture; the grid fills it along its longer side, centred.
    """
    x_cells, y_cells, z_cells = paint.shape
    scale = -(-size_px // max(x_cells, y_cells))
    height, width = x_cells * scale, y_cells * scale
    step = 1.0 / scale
    rays = np.array(
        [
            [x_cells - step / 2, y_cells - step / 2, z_cells + 1.0],
            [0, -step, 0],
            [-step, 0, 0],
            [0, 0, -1],
            [0, 0, 0],
            [0, 0, 0],
        ]
    )
    background = np.full((height, width, 3), FLOOR_COLOR, dtype=np.uint8)
    picture = _draw(_without_pale_above(paint), palette, rays, background)
    fit = size_px / max(height, width)
    fitted = (max(1, round(width * fit)), max(1, round(height * fit)))
    if fit < 1:
        picture = cv2.resize(picture, fitted, interpolation=cv2.INTER_AREA)
    panel = np.full((size_px, size_px, 3), PANEL_COLOR, dtype=np.uint8)
    top, left = (size_px - picture.shape[0]) // 2, (size_px - picture.shape[1]) // 2
    panel[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return panel


def _without_pale_above(paint: Paint) -> Paint:
    has_full = ((paint > 0) & (paint < PALE)).any(axis=2, keepdims=True)
    return np.where(has_full & (paint >= PALE), 0, paint).astype(np.uint16)


def _draw(
    paint: Paint, palette: Palette, rays: RayBundle, background: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    picture = draw_voxels(paint, palette, rays, background)
    return draw_outlines(picture, paint, palette, rays, (PANEL_COLOR, FLOOR_COLOR, LINE_COLOR))


def perspective_view(
    paint: Paint, palette: Palette, grid: VoxelGrid, *, floor_cells: int, width_px: int, height_px: int
) -> UInt8[np.ndarray, "height_px width_px 3"]:
    """Perspective picture from behind and above the vehicle, over a floor with lines every 10 m.

    Args:
        paint: palette row per voxel.
        palette: RGB of each paint.
        grid: its size.
        floor_cells: height of the floor above the grid's lower end, voxels.
        width_px: width of the picture.
        height_px: height of the picture.
    """
    width, height = width_px * SUPERSAMPLING, height_px * SUPERSAMPLING
    rays = perspective_rays(grid.shape, width, height)
    background = _floor(grid, floor_cells, rays, np.full((height, width, 3), PANEL_COLOR, dtype=np.uint8))
    picture = _draw(_without_pale_above(paint), palette, rays, background)
    return cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA)


def perspective_rays(shape: tuple[int, int, int], width_px: int, height_px: int) -> RayBundle:
    """Rays of a pinhole camera behind and above a grid of that many voxels, looking forward; voxel units.

    The picture is the window of the image plane that holds the whole grid, with a small margin.
    """
    x_cells, y_cells, z_cells = shape
    eye = np.array([-0.75 * x_cells, 0.5 * y_cells, 0.95 * x_cells])
    forward = np.array([0.45 * x_cells, 0.5 * y_cells, 0.0]) - eye
    forward /= np.linalg.norm(forward)
    right = np.array([0.0, -1.0, 0.0])
    down = np.cross(forward, right)
    corners = np.array([[x, y, z] for x in (0, x_cells) for y in (0, y_cells) for z in (0, 0.5 * z_cells)]) - eye
    plane = corners @ np.column_stack([right, down]) / (corners @ forward)[:, None]
    lower, upper = plane.min(axis=0), plane.max(axis=0)
    pixel = 1.03 * max((upper - lower) / [width_px, height_px])
    first = (lower + upper) / 2 - pixel * (np.array([width_px, height_px]) - 1) / 2
    zero = np.zeros(3)
    return np.array([eye, zero, zero, forward + first[0] * right + first[1] * down, pixel * right, pixel * down])


def floor_of(paint: Paint) -> int:
    """Index of the lowest layer that holds painted voxels; 0 when none does."""
    return int(np.argmax(paint.any(axis=(0, 1))))


def _floor(
    grid: VoxelGrid, height_cells: int, rays: RayBundle, panel: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    picture = panel.copy()
    x_cells, y_cells, _ = grid.shape
    corners = np.array([[0, 0], [x_cells, 0], [x_cells, y_cells], [0, y_cells]], dtype=np.float64)
    cv2.fillPoly(picture, [_pixels(corners, height_cells, rays)], FLOOR_COLOR, cv2.LINE_AA, 8)
    spacing = 10.0 / grid.voxel_size_m
    for axis, cells, other in ((0, x_cells, y_cells), (1, y_cells, x_cells)):
        for at in np.arange(0.0, cells + 1e-6, spacing):
            ends = np.array([[at, 0.0], [at, other]]) if axis == 0 else np.array([[0.0, at], [other, at]])
            cv2.polylines(picture, [_pixels(ends, height_cells, rays)], False, LINE_COLOR, 2, cv2.LINE_AA, 8)
    return picture


def _pixels(points: Float64[np.ndarray, "n 2"], height_cells: int, rays: RayBundle) -> np.ndarray:
    """Floor points (x, y) in voxel units as picture coordinates with 8 fractional bits (`shift` of OpenCV)."""
    eye, _, _, first, du, dv = rays
    offsets = np.column_stack([points, np.full(len(points), height_cells)]) - eye
    solved = np.linalg.solve(np.column_stack([du, dv, first]), offsets.T)
    return np.rint(solved[:2] / solved[2] * 256).T.astype(np.int32)
