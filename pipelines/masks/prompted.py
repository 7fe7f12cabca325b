"""Automatic mask generation from point prompts: the masks of segment-anything's generator, for less work.

The steps are those of `SamAutomaticMaskGenerator`: prompts on a grid of points, a filter by predicted quality, one by
the stability under another cut of the logits, and suppression of the lesser of two masks whose boxes overlap, in the
image and between crops. Less is computed, to the same results: logits are made and upsampled only where the quality
passes, and no mask is coded and decoded on the way. Stability and boxes are those of the full resolution, because
coarser ones would keep other masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from pipelines.masks.config import PromptedConfig
from pipelines.masks.found_masks import Box, FoundMasks, join_crops, remove_small_regions, suppress
from pipelines.masks.upsampling import Upsampler

if TYPE_CHECKING:
    from torch import Tensor

UPSAMPLED_AT_ONCE: Final = 64
"""Masks whose full resolution is in memory at the same time."""


@runtime_checkable
class PromptedNetwork(Protocol):
    """An encoder of images and a decoder that answers points with masks."""

    @property
    def square(self) -> int:
        """Side of the image that the encoder takes, pixels."""

    @property
    def logits_side(self) -> int:
        """Side of the logits, in their own pixels."""

    def shown(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of (H, W) pixels has in the encoder's, from the top left."""

    def encode(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Sequence[Any]:
        """Features of RGB images of any sizes, one entry for each image."""

    def decode(
        self, features: Any, points: Float[np.ndarray, "B 2"], above: float, rows: int
    ) -> tuple[Float[Tensor, "M h w"], Float[Tensor, " M"]]:
        """Masks of points (x, y) in pixels of the encoder's image, in the order of the points.

        Returns:
            Logits (at least the first ``rows`` rows; above 0 in the mask) and predicted IoU of the masks whose
            predicted IoU is above ``above``; 0 takes all.
        """


@dataclass(frozen=True)
class Candidates:
    """Masks of one crop that passed the thresholds."""

    logits: Float[Tensor, "M h w"]
    quality: Float[Tensor, " M"]
    stability: Float[Tensor, " M"]
    boxes: Int[Tensor, "M 4"]
    """In pixels of the crop."""

    def __getitem__(self, chosen: Tensor) -> Candidates:
        """Those of truth values or of numbers, in their order."""
        return Candidates(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Crop:
    """A part of an image that is searched."""

    image: int
    """Number of the image."""
    box: Box
    """The ends excluded."""
    layer: int
    """0 is the whole image."""
    whole: tuple[int, int]
    """(H, W) of the image."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0

    def of(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Its pixels."""
        x0, y0, x1, y1 = self.box
        return image[y0:y1, x0:x1]


def find_masks(
    network: PromptedNetwork, config: PromptedConfig, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> list[FoundMasks]:
    """Masks of RGB images of any sizes.

    Args:
        network: on its device, in evaluation mode.
        config: points, thresholds and crops.
        images: they and their crops are encoded ``images_per_batch`` at a time.

    Returns:
        One entry for each image, possibly without a mask.
    """
    import torch

    crops = [crop for number, image in enumerate(images) for crop in _crops(config, number, image)]
    found: list[FoundMasks] = []
    with torch.inference_mode():
        for start in range(0, len(crops), config.images_per_batch):
            batch = crops[start : start + config.images_per_batch]
            encoded = network.encode([crop.of(images[crop.image]) for crop in batch])
            found += [search(network, config, features, crop) for crop, features in zip(batch, encoded, strict=True)]
    return [
        _of_image(config, [(crop.box, part) for crop, part in zip(crops, found, strict=True) if crop.image == number])
        for number in range(len(images))
    ]


def _crops(config: PromptedConfig, number: int, image: UInt8[np.ndarray, "H W 3"]) -> list[Crop]:
    from segment_anything.utils.amg import generate_crop_boxes

    shape = (image.shape[0], image.shape[1])
    boxes, layers = generate_crop_boxes(shape, config.crop_n_layers, config.crop_overlap_ratio)
    return [Crop(number, tuple(box), layer, shape) for box, layer in zip(boxes, layers, strict=True)]


def _of_image(config: PromptedConfig, parts: Sequence[tuple[Box, FoundMasks]]) -> FoundMasks:
    joined = join_crops([part for _, part in parts], [box for box, _ in parts], config.crop_nms_thresh)
    if not config.min_mask_region_area:
        return joined
    nms_thresh = max(config.box_nms_thresh, config.crop_nms_thresh)
    return remove_small_regions(joined, config.min_mask_region_area, nms_thresh)


def search(network: PromptedNetwork, config: PromptedConfig, features: Any, crop: Crop) -> FoundMasks:
    """The masks of one crop, on the whole image, from the features that the network made of it."""
    from segment_anything.utils.amg import uncrop_masks

    shown = network.shown(crop.shape)
    upsample = Upsampler(network.logits_side, network.square, shown, crop.shape)
    points = _point_grid(config, crop) * (shown[1] / crop.shape[1], shown[0] / crop.shape[0])
    parts: list[Candidates] = []
    for start in range(0, len(points), config.points_per_batch):
        prompts = points[start : start + config.points_per_batch]
        logits, quality = network.decode(features, prompts, config.pred_iou_thresh, upsample.rows)
        for first in range(0, len(logits), UPSAMPLED_AT_ONCE):
            some = slice(first, first + UPSAMPLED_AT_ONCE)
            parts.append(_stable(config, crop, upsample, logits[some], quality[some]))
    found = _suppressed(config, parts)
    if found is None:
        return FoundMasks.none(crop.whole)
    masks = uncrop_masks(upsample(found.logits) > 0, list(crop.box), *crop.whole)
    boxes = found.boxes.cpu().numpy() + np.array(crop.box[:2] * 2)
    return FoundMasks(masks.cpu().numpy(), found.quality.cpu().numpy(), found.stability.cpu().numpy(), boxes)


def _point_grid(config: PromptedConfig, crop: Crop) -> Float[np.ndarray, "P 2"]:
    """Points (x, y) in pixels of a crop."""
    from segment_anything.utils.amg import build_point_grid

    side = int(config.points_per_side / config.crop_n_points_downscale_factor**crop.layer)
    return np.asarray(build_point_grid(side) * crop.shape[::-1])


def _stable(
    config: PromptedConfig,
    crop: Crop,
    upsample: Upsampler,
    logits: Float[Tensor, "M h w"],
    quality: Float[Tensor, " M"],
) -> Candidates:
    """The masks that are stable and that the edge of a crop does not cut off."""
    from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score, is_box_near_crop_edge

    pixels = upsample(logits)
    stability = calculate_stability_score(pixels, 0.0, config.stability_score_offset)
    boxes = batched_mask_to_box(pixels > 0)
    height, width = crop.whole
    keep = ~is_box_near_crop_edge(boxes, list(crop.box), [0, 0, width, height])
    if config.stability_score_thresh > 0:
        keep &= stability >= config.stability_score_thresh
    return Candidates(logits, quality, stability, boxes)[keep]


def _suppressed(config: PromptedConfig, parts: Sequence[Candidates]) -> Candidates | None:
    """Of all batches, the masks that overlap no better one."""
    import torch

    if not parts:
        return None
    joined = Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))
    kept = suppress(joined.boxes.cpu().numpy(), joined.quality.cpu().numpy(), config.box_nms_thresh)
    return joined[torch.from_numpy(kept).to(joined.boxes.device)]
