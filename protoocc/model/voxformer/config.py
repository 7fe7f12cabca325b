"""Settings of VoxFormer; the defaults are its published network at the paper's size Base, on SemanticKITTI."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from protoocc.model.parts_config import PartsConfig, UpsampleStage
from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID, VoxelGrid

Proposals = Literal["all", "depth", "learned"]
"""Which queries look at the images: all, those where measured depth lies, or those that a trained network expects."""


class VoxFormerConfig(PartsConfig):
    """The whole network. The paper's parts are switches, which are off here."""

    kind: Literal["voxformer"] = Field("voxformer", description="VoxFormer; ProtoOcc's parts are switches.")
    num_classes: int = Field(SEMANTICKITTI.num_classes, ge=2, description="Classes L of the labels, free included.")
    free: int | None = Field(SEMANTICKITTI.free, ge=0, description="Class that means free space; null: the last one.")
    grid: VoxelGrid = Field(SEMANTICKITTI_GRID, description="Output voxel grid, ego frame.")

    strides: tuple[int, ...] = Field((16,), description="Feature scales that the queries read, pixels per cell.")
    channels: int = Field(128, ge=8, description="Channels d of image features, prototypes and voxel queries.")
    query_shape: tuple[int, int, int] = Field((128, 128, 16), description="Voxel queries (h, w, z) along x, y, z.")
    cross_layers: int = Field(3, ge=1, description="Layers in which proposed queries look at the images.")
    self_layers: int = Field(2, ge=0, description="Layers in which all queries look at each other.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    points: int = Field(8, ge=1, description="Sampling points per head and feature scale, and per voxel queue.")
    ffn_channels: int = Field(256, ge=1, description="Hidden channels of the feed-forward blocks.")
    layer_dropout: float = Field(
        0.1, ge=0, lt=1, description="Probability that a value that attention or feed-forward adds is dropped."
    )
    placed_queries: bool = Field(
        False,
        description="Add its position to each query before self attention. Off, as in the host, a position only says "
        "where to look, and mask tokens that nobody looks at are all alike.",
    )
    recompute: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, same gradients."
    )

    proposals: Proposals = Field(
        "depth",
        description="Queries that look at the images. all: every one; depth: where pixels with depth lie; learned: "
        "where the network of proposal_run expects something.",
    )
    proposal_run: str | None = Field(
        None, description="Run folder of a network of kind 'proposals' whose weights propose; only for learned."
    )
    proposal_width: int = Field(48, ge=8, description="Channels of its U-Net at the finest resolution.")
    proposal_threshold: float = Field(
        0.5, gt=0, lt=1, description="Least probability of a voxel that makes the query around it a proposed one."
    )

    prototype_mapping: bool = Field(False, description="Map image prototypes onto the proposed queries, equation (1).")
    prototype_optimisation: bool = Field(
        False, description="Compute pixel features X, equation (2), for the mask loss."
    )
    prototype_cell: int = Field(2, ge=1, description="Edge r of the cell that starts a prototype, feature cells.")
    clustering_stride: int = Field(16, description="Feature scale that is clustered, pixels per cell.")
    multi_perspective: bool = Field(
        False,
        description="Decode by a transposed convolution, augmented views beside the original in training; else by "
        "trilinear upsampling.",
    )
    upsample: tuple[UpsampleStage, ...] = Field(
        (UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32),),
        min_length=1,
        description="Transposed convolutions from (h, w, z) to the grid; only with multi_perspective.",
    )

    @property
    def reads_depth(self) -> bool:
        """Whether batches must hold depth."""
        return self.proposals != "all"

    @property
    def has_fixed_queries(self) -> bool:
        """No: queries that look at the images are proposed."""
        return False

    def obstacles(self, *, has_masks: bool, has_weights: bool) -> list[str]:
        """Why this network cannot be trained: a network that proposes needs weights."""
        found = super().obstacles(has_masks=has_masks, has_weights=has_weights)
        if self.proposals == "learned" and self.proposal_run is None:
            found.append(
                "model.proposals=learned needs a trained network that proposes. Run `protoocc train --preset "
                "proposals` and set model.proposal_run to its run folder, or set model.proposals=depth."
            )
        return found

    @model_validator(mode="after")
    def _check_grid(self) -> VoxFormerConfig:
        if any(voxels % cells for voxels, cells in zip(self.grid.shape, self.query_shape, strict=True)):
            raise ValueError(f"query_shape {self.query_shape} must divide the grid {self.grid.shape}")
        if self.multi_perspective:
            self.check_upsampling(self.query_shape, f"query_shape {self.query_shape}")
        if self.frames > 1:
            raise ValueError(f"frames = {self.frames}: this VoxFormer reads one frame")
        if self.channels % self.heads or self.channels % 2:
            raise ValueError(f"channels {self.channels} must be even and a multiple of heads {self.heads}")
        return self
