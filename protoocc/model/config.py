"""Settings of the network: one field per choice of section 3 of the paper."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from protoocc.model.parts_config import Augmentation, PartsConfig, UpsampleStage

__all__ = ["Augmentation", "ProtoOccConfig", "UpsampleStage"]


class ProtoOccConfig(PartsConfig):
    """The whole network. Defaults are ProtoOcc-Small at 432 x 800 on Occ3D-nuScenes, one frame."""

    kind: Literal["protoocc"] = Field(
        "protoocc", description="ProtoOcc; its switches make PanoOcc, BEVFormer and DFA3D of it."
    )

    version: Literal[2] = Field(
        2, description="Of the network's arithmetic; weights trained with another one would mean something else."
    )
    encoder_layers: int = Field(3, ge=1, description="Layers of the view transformation.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    points: int = Field(8, ge=1, description="Sampling points per head and feature scale, and per voxel queue.")
    ffn_channels: int = Field(512, ge=1, description="Hidden channels of the feed-forward block.")
    pillar_heights: int = Field(
        1, ge=1, description="Heights at which a query looks for images: 1 for voxels, 8 for the pillars of BEVFormer."
    )

    image_attention: bool = Field(
        True,
        description="Queries read images by deformable attention; false: through prototypes alone, which shows what "
        "these carry. Pixel features need its sampling points, so set prototype_optimisation to false with it.",
    )
    lifted_cells: tuple[int, int, int] | None = Field(
        None,
        description="Cells per query along x, y, z at whose centres image features are read: they start the queries "
        "and give back their detail before decoding. null: queries start alike in every scene.",
    )
    refinement_channels: int | None = Field(
        None, ge=8, description="Width of a U-Net over x and y that refines the encoded queries; null: none."
    )
    voxel_detail: bool = Field(
        False,
        description="Every classified voxel reads image features, depth and class where its own centre lands; needs "
        "pixel_depth and pixel_classes.",
    )
    depth_attention: bool = Field(
        False, description="Weigh attention samples by a predicted distribution over depth (DFA3D)."
    )

    temporal: Literal["fusion", "recurrence"] = Field(
        "fusion",
        description="How earlier frames enter. fusion: one convolution block over all encoded frames (PanoOcc); "
        "recurrence: self attention reads the encoded frame before (BEVFormer).",
    )
    recompute: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, same gradients."
    )

    @property
    def lifted_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) of what is decoded: the lifted cells, or the queries where nothing is lifted."""
        parts = self.lifted_cells or (1, 1, 1)
        h, w, z = (queries * part for queries, part in zip(self.query_shape, parts, strict=True))
        return h, w, z

    @model_validator(mode="after")
    def _check_attention(self) -> ProtoOccConfig:
        if self.image_attention:
            return self
        if not self.prototype_mapping:
            raise ValueError("image_attention or prototype_mapping: without both no query sees an image")
        if self.prototype_optimisation or self.depth_attention:
            raise ValueError("prototype_optimisation and depth_attention need image_attention: they read its points")
        return self

    @model_validator(mode="after")
    def _check_shapes(self) -> ProtoOccConfig:
        if self.lifted_cells is not None and self.temporal == "recurrence" and self.frames > 1:
            raise ValueError("lifted_cells and temporal 'recurrence' exclude each other: self attention reads queries")
        if self.voxel_detail and not (self.pixel_depth and self.pixel_classes):
            raise ValueError("voxel_detail reads what both pixel heads say: set pixel_depth and pixel_classes to true")
        what = f"{self.lifted_shape} cells (query_shape {self.query_shape}, lifted_cells {self.lifted_cells})"
        self.check_upsampling(self.lifted_shape, what)
        if self.points % self.pillar_heights:
            raise ValueError(f"points {self.points} must be a multiple of pillar_heights {self.pillar_heights}")
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} must be a multiple of heads {self.heads}")
        return self
