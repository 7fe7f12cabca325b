"""Settings of Symphonies; the defaults are its published network on SemanticKITTI."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from protoocc.model.parts_config import PartsConfig, UpsampleStage
from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID, VoxelGrid


class SymphoniesConfig(PartsConfig):
    """The whole network. The paper's parts are switches, which are off here."""

    kind: Literal["symphonies"] = Field("symphonies", description="Symphonies; ProtoOcc's parts are switches.")
    num_classes: int = Field(SEMANTICKITTI.num_classes, ge=2, description="Classes L of the labels, free included.")
    free: int | None = Field(SEMANTICKITTI.free, ge=0, description="Class that means free space; null: the last one.")
    grid: VoxelGrid = Field(SEMANTICKITTI_GRID, description="Output voxel grid, ego frame.")

    strides: tuple[int, ...] = Field((4, 8, 16), description="Feature scales that are read, pixels per cell.")
    channels: int = Field(128, ge=8, description="Channels d of image features, instances and scene queries.")
    pixel_decoder_layers: int = Field(
        6, ge=0, description="Layers of the deformable encoder over strides 8 to 64; 0: a feature pyramid in its place."
    )
    pixel_decoder_channels: int = Field(256, ge=8, description="Channels of this encoder.")
    pixel_decoder_ffn: int = Field(2048, ge=1, description="Hidden channels of its feed-forward blocks.")

    query_shape: tuple[int, int, int] = Field(
        (128, 128, 8), description="Scene queries (h, w, z) along x, y, z; 8 heights are the published downsample_z 2."
    )
    position_parts: tuple[int, int, int] = Field(
        (2, 2, 1), description="Finer cells along x, y, z whose tables of positions stand for neighbouring heights."
    )
    instances: int = Field(100, ge=1, description="Learned instance queries of each camera.")
    layers: int = Field(3, ge=1, description="Rounds between instances, images and scene.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    points: int = Field(4, ge=1, description="Sampling points per head and feature scale; twice as many in the scene.")
    ffn_channels: int = Field(512, ge=1, description="Hidden channels of the feed-forward blocks.")
    dilations: tuple[int, ...] = Field((1, 3), description="Dilations of the convolutions behind the last layer.")
    proposals: Literal["all", "depth"] = Field(
        "depth", description="Queries that look at the images. all: every one in view; depth: where depth lies."
    )
    auxiliary: bool = Field(True, description="Decode what earlier layers leave as well, for losses of training.")
    recompute: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, same gradients."
    )

    prototype_mapping: bool = Field(False, description="Map image prototypes onto queries in view, equation (1).")
    prototype_optimisation: bool = Field(
        False, description="Compute pixel features X, equation (2), for the mask loss."
    )
    head: Literal["own", "paper"] = Field(
        "own",
        description="own: Symphonies' transposed convolutions, of all voxels; paper: those of `upsample`, of the "
        "voxels that are asked for.",
    )
    multi_perspective: bool = Field(
        False, description="Decode augmented views beside the original in training; needs head 'paper'."
    )
    upsample: tuple[UpsampleStage, ...] = Field(
        (UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 4), channels=32),),
        min_length=1,
        description="Transposed convolutions from (h, w, z) to the grid; only with head 'paper'.",
    )

    @property
    def reads_depth(self) -> bool:
        """Whether batches must hold depth."""
        return self.proposals == "depth"

    @property
    def has_fixed_queries(self) -> bool:
        """No: queries that look at the images are proposed."""
        return False

    def obstacles(self, *, has_masks: bool, has_weights: bool) -> list[str]:
        """Why this network cannot be trained: norms that keep their statistics need some that mean something."""
        found = super().obstacles(has_masks=has_masks, has_weights=has_weights)
        if self.frozen_norms and not has_weights:
            found.append(
                "model.frozen_norms=true keeps statistics of no images: start from trained weights with --weights, or "
                "set model.frozen_norms=false."
            )
        return found

    @property
    def doublings(self) -> tuple[int, int]:
        """How often Symphonies' own head doubles the height alone, and how often all three axes.

        Raises:
            ValueError: it cannot reach the grid.
        """
        factors = [voxels / cells for voxels, cells in zip(self.grid.shape, self.query_shape, strict=True)]
        height_only, every = math.log2(factors[2] / factors[0]), math.log2(factors[0])
        if factors[0] != factors[1] or height_only < 0 or every < 0 or height_only % 1 or every % 1:
            raise ValueError(
                f"head 'own' doubles the height, then all axes: query_shape {self.query_shape} does not become the "
                f"grid {self.grid.shape}; change query_shape or use head 'paper'"
            )
        return int(height_only), int(every)

    @model_validator(mode="after")
    def _check_head(self) -> SymphoniesConfig:
        if self.multi_perspective and self.head == "own":
            raise ValueError("multi_perspective needs head 'paper': Symphonies' own head has one view")
        if self.head == "own":
            _ = self.doublings
        else:
            self.check_upsampling(self.query_shape, f"query_shape {self.query_shape}")
        return self

    @model_validator(mode="after")
    def _check_queries(self) -> SymphoniesConfig:
        if self.query_shape[2] % math.prod(self.position_parts):
            raise ValueError(
                f"query_shape {self.query_shape}: its height must be a multiple of the "
                f"{math.prod(self.position_parts)} parts of position_parts {self.position_parts}"
            )
        if self.channels % self.heads or self.channels % 2:
            raise ValueError(f"channels {self.channels} must be even and a multiple of heads {self.heads}")
        if self.frames > 1:
            raise ValueError(f"frames = {self.frames}: Symphonies reads one frame")
        return self

    @model_validator(mode="after")
    def _check_pixel_decoder(self) -> SymphoniesConfig:
        if self.pixel_decoder_layers and not set(self.strides) <= {4, 8, 16, 32}:
            raise ValueError(f"strides {self.strides}: the deformable encoder gives 8 to 32, the backbone 4")
        if self.pixel_decoder_layers and self.pixel_decoder_channels % (4 * self.heads):
            raise ValueError(
                f"pixel_decoder_channels {self.pixel_decoder_channels} must be a multiple of 4 times heads {self.heads}"
            )
        return self
