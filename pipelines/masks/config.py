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


class SamConfig(Frozen):
    """Segment Anything: automatic mask generation from a checkpoint that the user brings."""

    checkpoint: Path | None = Field(None, description="Weights file of segment-anything.")
    model_type: Literal["vit_b", "vit_l", "vit_h"] | None = Field(
        None, description="Expected size, compared with the file; None takes what the file holds."
    )
    points_per_side: int = Field(32, ge=1, description="Point prompts along each side of the image.")
    pred_iou_thresh: float = Field(0.88, ge=0, le=1, description="Masks with a lower predicted quality are left out.")
    stability_score_thresh: float = Field(0.95, ge=0, le=1, description="Masks that are less stable are left out.")
    device: str = Field("cpu", description="Torch device: cpu, cuda or cuda:N.")
