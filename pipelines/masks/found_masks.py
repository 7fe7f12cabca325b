"""Masks that were found in one image: joined over crops, without small regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels."""


@dataclass(frozen=True)
class FoundMasks:
    """Masks of one image, the best first."""

    masks: Bool[np.ndarray, "M H W"]
    quality: Float[np.ndarray, " M"]
    """Predicted IoU."""
    stability: Float[np.ndarray, " M"]
    """IoU of the masks of a higher and of a lower cut of the logits."""
    boxes: Int[np.ndarray, "M 4"]
    """First and last column and row (x0, y0, x1, y1), pixels; zeros for an empty mask."""

    @staticmethod
    def none(shape: tuple[int, int]) -> FoundMasks:
        """No mask of an image of (H, W) pixels."""
        scores = np.zeros(0, dtype=np.float32)
        return FoundMasks(np.zeros((0, *shape), dtype=bool), scores, scores, np.zeros((0, 4), dtype=np.int64))

    def __getitem__(self, chosen: Int[np.ndarray, " m"]) -> FoundMasks:
        """Those of numbers, in their order."""
        return FoundMasks(*(getattr(self, field.name)[chosen] for field in fields(self)))


def join_crops(parts: Sequence[FoundMasks], crops: Sequence[Box], nms_thresh: float) -> FoundMasks:
    """Masks of all crops of an image; of two whose boxes overlap that of the smaller crop stays.

    Args:
        parts: masks of each crop, on the whole image.
        crops: (x0, y0, x1, y1) of each, the ends excluded.
        nms_thresh: box IoU above which two masks are one.

    Returns:
        The masks that stay; those of smaller crops first.
    """
    joined = FoundMasks(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(FoundMasks))
    )
    if len(parts) == 1:
        return joined
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in crops]
    scores = np.repeat(1 / np.array(areas), [len(part.quality) for part in parts])
    return joined[suppress(joined.boxes, scores, nms_thresh)]


def remove_small_regions(found: FoundMasks, area_px: int, nms_thresh: float) -> FoundMasks:
    """Masks without holes and islands of less than an area; of two that became one, an unchanged one stays.

    Args:
        found: masks of an image.
        area_px: pixels.
        nms_thresh: box IoU above which two masks are one.
    """
    import torch
    from segment_anything.utils import amg

    if not len(found.masks):
        return found
    masks, is_changed = found.masks.copy(), np.zeros(len(found.masks), dtype=bool)
    for number in range(len(masks)):
        for mode in ("holes", "islands"):
            masks[number], changed = amg.remove_small_regions(masks[number], area_px, mode)
            is_changed[number] |= changed
    boxes = amg.batched_mask_to_box(torch.from_numpy(masks)).numpy()
    return replace(found, masks=masks, boxes=boxes)[suppress(boxes, ~is_changed, nms_thresh)]


def suppress(
    boxes: Int[np.ndarray, "M 4"], scores: Float[np.ndarray, " M"] | Bool[np.ndarray, " M"], nms_thresh: float
) -> Int[np.ndarray, " m"]:
    """Numbers of the boxes that overlap no better one by more than an IoU, the best first."""
    import torch
    from torchvision.ops import nms

    kept = nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores.astype(np.float32)), nms_thresh)
    return np.asarray(kept.numpy())
