"""Segment Anything here against the library's generator: seconds of the encoder and of the rest, and the same masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from jaxtyping import Bool, UInt8

from pipelines.masks.config import SamConfig
from pipelines.masks.network_workers import device_here
from pipelines.masks.prompted import find_masks
from pipelines.masks.prompted_generator import one_thread
from pipelines.masks.sam_checkpoint import load_sam, published_sam
from pipelines.masks.sam_network import SamNetwork

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch.nn import Module

LIBRARY_SETTINGS: Final = (
    "points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset",
    "box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor",
    "min_mask_region_area",
)  # fmt: skip
"""Settings that have the library's names."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Seconds of one image."""

    encoder_s: float
    total_s: float

    @property
    def rest_s(self) -> float:
        """Prompts, decoder, thresholds and suppression."""
        return self.total_s - self.encoder_s


@dataclass(frozen=True)
class SamBench:
    """Both generators on the same image and weights, one after the other, with one torch thread on a CPU."""

    library: Timing
    ours: Timing
    masks: tuple[int, int]
    """Of the library and here."""
    least_iou: float
    """Of the masks of the library with the most similar one here; 1 where there is none."""

    @property
    def times_after_encoder(self) -> float:
        """How many times faster everything after the encoder is."""
        return self.library.rest_s / self.ours.rest_s


def bench_sam(config: SamConfig, image: UInt8[np.ndarray, "h w 3"], random_type: str | None) -> SamBench:
    """Measures one RGB image.

    Args:
        config: settings of both; precision and compile are for ours alone.
        image: RGB, as large as masks are made.
        random_type: vit_b, vit_l, vit_h or vit_t for random weights of that size; None takes the checkpoint.

    Raises:
        CheckpointError: the checkpoint is no Sam.
    """
    from segment_anything import SamAutomaticMaskGenerator

    if random_type is None and config.checkpoint is not None:
        sam = load_sam(config.checkpoint, config.model_type)
    else:
        sam = _random_sam(random_type or "vit_b", config, image)
    sam = sam.to(device_here(config.device))
    network = SamNetwork(sam, config)
    library = SamAutomaticMaskGenerator(sam, **config.model_dump(include=set(LIBRARY_SETTINGS)))
    with one_thread():
        expected, their_time = _timed(lambda: library.generate(image), sam.image_encoder)
        (found,), our_time = _timed(lambda: find_masks(network, config, [image]), network.run_encoder)
    theirs = np.array([mask["segmentation"] for mask in expected], dtype=bool).reshape(-1, *image.shape[:2])
    return SamBench(their_time, our_time, (len(theirs), len(found.masks)), _least_iou(theirs, found.masks))


def _timed(call: Callable[[], Result], encoder: Module) -> tuple[Result, Timing]:
    """Runs a generator with a clock before and after its encoder."""
    stamps: list[float] = []
    hooks = [
        encoder.register_forward_pre_hook(lambda *_: stamps.append(_now())),
        encoder.register_forward_hook(lambda *_: stamps.append(_now())),
    ]
    started = _now()
    try:
        result = call()
    finally:
        for hook in hooks:
            hook.remove()
    return result, Timing(sum(stamps[1::2]) - sum(stamps[::2]), _now() - started)


def _now() -> float:
    """Seconds, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _least_iou(expected: Bool[np.ndarray, "M H W"], found: Bool[np.ndarray, "N H W"]) -> float:
    if not len(expected):
        return 1.0
    pixels = expected[0].size
    flat, other = (masks.reshape(len(masks), pixels).astype(np.float32) for masks in (expected, found))
    common = flat @ other.T
    union = flat.sum(axis=1)[:, None] + other.sum(axis=1)[None] - common
    return float((common / np.maximum(union, 1)).max(axis=1, initial=0).min())


def _random_sam(kind: str, config: SamConfig, image: UInt8[np.ndarray, "h w 3"]) -> Sam:
    """Random weights, moved so that half of the masks have the quality that is asked for and most are stable.

    Untrained qualities lie near 0: nothing would pass, and nothing after the transformer be measured.
    """
    import torch

    torch.manual_seed(0)
    sam = published_sam(kind).eval().requires_grad_(False)
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight *= 1000
        mlp.layers[-1].bias *= 1000
    network = SamNetwork(sam, config)
    points = np.random.default_rng(0).uniform(0, network.shown((image.shape[0], image.shape[1]))[::-1], (16, 2))
    features = torch.zeros(sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    with torch.inference_mode():
        _, quality = network.decode(features, points, 0.0, 1)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias += config.pred_iou_thresh - float(quality.median())
    return sam
