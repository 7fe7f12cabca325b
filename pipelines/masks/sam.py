"""Segment Anything's automatic masks, as one label map per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.masks.config import SamConfig
from pipelines.masks.label_map import paint_masks
from pipelines.masks.sam_checkpoint import find_checkpoint, load_sam
from pipelines.masks.sam_workers import device_here

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

MASKS_PER_RUN: Final = 64
"""Point prompts that the decoder takes at once."""
_LOADING: Final = Lock()
"""Threads of one process wait for each other's model instead of loading one each."""


def sam_segmenter(
    config: SamConfig, size: tuple[int, int] | None
) -> Callable[[UInt8[np.ndarray, "h w 3"]], Int32[np.ndarray, "H W"]]:
    """Loads the model, once per process, and returns a function from an image to its label map.

    Args:
        config: checkpoint and thresholds.
        size: (width, height) in pixels that the image gets first: masks are made at the network's scale; None keeps its
            own.

    Returns:
        Function: BGR image (h, w, 3) -> labels (height, width) in 0..S-1 that cover the image.

    Raises:
        CheckpointError: there is no checkpoint, or it is no Sam of the wanted size.
        SetupError: the device is not available.
    """
    from segment_anything import SamAutomaticMaskGenerator

    with _LOADING:
        model = _load_once(find_checkpoint(config), config.model_type, device_here(config.device))
    generator = SamAutomaticMaskGenerator(
        model,
        points_per_side=config.points_per_side,
        points_per_batch=MASKS_PER_RUN,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
    )

    def segment(image_bgr: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "H W"]:
        resized = image_bgr if size is None else cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA)
        with _one_thread():
            masks = generator.generate(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))
        return paint_masks([mask["segmentation"] for mask in masks], (resized.shape[0], resized.shape[1]))

    return segment


@cache
def _load_once(path: Path, model_type: str | None, device: str) -> Sam:
    import torch

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    return load_sam(path, model_type).to(device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: sums get the same order, and masks the same bytes, with any number of workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
