"""GridMask: squares of an image are blanked out on a regular grid, so that no single place is relied on."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool

_SMALLEST_PERIOD_PX: Final = 2


def draw_grid_mask(image_size: tuple[int, int], generator: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """Pixels to blank out: a grid of squares with half the edge of its period, at a random place.

    The period is 2 pixels up to the height of the image, as in the host (`ratio` 0.5, `mode` 1).

    Args:
        image_size: (H, W) in pixels.
        generator: source of period and place.
    """
    height, width = image_size
    period_px = int(generator.integers(_SMALLEST_PERIOD_PX, max(height, _SMALLEST_PERIOD_PX + 1)))
    bar_px = min(max(int(period_px * 0.5 + 0.5), 1), period_px - 1)
    start_row, start_column = generator.integers(period_px, size=2)
    rows = (np.arange(height) - start_row) % period_px >= bar_px
    columns = (np.arange(width) - start_column) % period_px >= bar_px
    return rows[:, None] & columns[None, :]
