"""Line-of-sight projection: every point takes the features of the pixel that it lands on (MonoScene's FLoSP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from protoocc.model.projection import HitQueries


def gather_pixels(maps: Sequence[Float[Tensor, "cameras d _ _"]], hits: HitQueries) -> Float[Tensor, "n d"]:
    """Features of the cell of its camera's maps in which each hit lands, summed over the scales.

    All points along the ray of a cell take the same features; nothing is interpolated.

    Args:
        maps: one per scale of all B*V cameras.
        hits: of points with one anchor each.
    """
    places = hits.reference[:, 0].split(hits.counts)
    return torch.cat([_gather([scale[camera] for scale in maps], place) for camera, place in enumerate(places)])


def _gather(scales: Sequence[Float[Tensor, "d _ _"]], place: Float[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
    """Of one camera; ``place`` is (u, v) in shares of the image."""
    found = []
    for scale in scales:
        height, width = scale.shape[-2:]
        column = (place[:, 0] * width).floor().long().clamp(0, width - 1)
        row = (place[:, 1] * height).floor().long().clamp(0, height - 1)
        found.append(scale.flatten(1).index_select(1, row * width + column))
    return torch.stack(found).sum(0).mT
