"""Settings of the mask generators."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from schemas.settings import Frozen


class SeedsConfig(Frozen):
    """SEEDS superpixels (OpenCV): no model, no GPU."""

    segments: Literal[299, 91] = Field(299, description="Superpixels per image, as in the paper: 299 or 91.")
    iterations: int = Field(10, ge=1, description="Passes that refine the borders.")
    connected: bool = Field(
        False,
        exclude_if=lambda value: value is False,
        description="Whether the pieces of a superpixel that fell apart become segments of their own.",
    )


class SlicConfig(Frozen):
    """SLIC superpixels (OpenCV): no model, no GPU; about 300 segments per image with the defaults."""

    region_px: int = Field(35, ge=5, le=450, description="Side of a superpixel, pixels of the image at 800x450.")
    ruler: float = Field(40.0, gt=0, description="Weight of distance against colour: more makes squarer segments.")
    iterations: int = Field(10, ge=1, description="Passes that move the borders.")
    smallest_percent: int = Field(
        25, ge=0, le=100, description="Smaller pieces join a neighbour, percent of the average superpixel."
    )


class PromptedConfig(Frozen):
    """Automatic mask generation by a network that answers point prompts; names and defaults of segment-anything."""

    checkpoint: Path | None = Field(None, description="Weights that the user brings.")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Expected SHA-256 of the weights; None takes any."
    )
    points_per_side: int = Field(32, ge=1, description="Point prompts along each side of the image.")
    points_per_batch: int = Field(64, ge=1, description="Point prompts that the decoder takes at once; GPUs like more.")
    images_per_batch: int = Field(
        1, ge=1, description="Images or crops that the encoder takes at once; each needs 2 to 4 GB of the device."
    )
    pred_iou_thresh: float = Field(0.88, ge=0, le=1, description="Masks with a lower predicted quality are left out.")
    stability_score_thresh: float = Field(0.95, ge=0, le=1, description="Masks that are less stable are left out.")
    stability_score_offset: float = Field(1.0, ge=0, description="Shift of the cut of the logits that tests stability.")
    box_nms_thresh: float = Field(0.7, ge=0, le=1, description="Box IoU above which the lesser of two masks goes.")
    crop_n_layers: int = Field(0, ge=0, description="Layers of ever smaller crops that are searched too.")
    crop_nms_thresh: float = Field(0.7, ge=0, le=1, description="As box_nms_thresh, between crops.")
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, lt=1, description="Overlap of crops, share of the short side.")
    crop_n_points_downscale_factor: int = Field(
        1, ge=1, description="Each layer of crops has so many times fewer points along a side."
    )
    min_mask_region_area: int = Field(0, ge=0, description="Smaller holes and islands of masks are removed, pixels.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: networks compute in it where autocast does; for GPUs."
    )
    compile: bool = Field(
        False, description="Compile encoder and decoder, with a compiler of yours: minutes at the start, faster after."
    )
    device: str = Field("cpu", description="Torch device: cpu, cuda or cuda:N.")


class SamConfig(PromptedConfig):
    """Segment Anything or MobileSAM (vit_t), from a checkpoint that the user brings."""

    model_type: Literal["vit_b", "vit_l", "vit_h", "vit_t"] | None = Field(
        None, description="Expected size, compared with the file; None takes what the file holds."
    )


class Sam2Config(PromptedConfig):
    """SAM 2, from weights that the user brings (needs the extra `sam2`)."""
