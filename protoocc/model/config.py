"""Settings of the network: one field per choice of section 3 of the paper."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.settings import Frozen

Augmentation = Literal["dropout", "gaussian", "transpose", "flip_x", "flip_y"]
"""One voxel augmentation of section 3.3.1: two act on features, three on space."""

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]


class UpsampleStage(Frozen):
    """One transposed 3D convolution of the decoder."""

    kernel: tuple[int, int, int] = Field(description="Kernel along x, y, z, voxels.")
    stride: tuple[int, int, int] = Field(description="Upsampling factor along x, y, z.")
    channels: int = Field(ge=1, description="Output channels.")

    @model_validator(mode="after")
    def _check(self) -> UpsampleStage:
        for kernel, stride in zip(self.kernel, self.stride, strict=True):
            if stride < 1 or kernel < stride or (kernel - stride) % 2:
                raise ValueError(f"kernel {self.kernel} must exceed stride {self.stride} by 0, 2, 4, ... on each axis")
        return self


class ModelConfig(Frozen):
    """The whole network. Defaults are ProtoOcc-Small at 432 x 800 on Occ3D-nuScenes, one frame."""

    num_classes: int = Field(18, ge=2, description="Classes L; the last one is free space.")
    grid: VoxelGrid = Field(OCC3D_GRID, description="Output voxel grid, ego frame.")

    backbone: BackboneName = Field("resnet50", description="Residual network that reads the images.")
    backbone_width: int = Field(64, ge=8, description="Channels after the stem; 64 is the published network.")
    backbone_style: Literal["torchvision", "caffe"] = Field(
        "torchvision",
        description="torchvision: RGB less the ImageNet mean over its deviation, stride in the 3 x 3 convolutions; "
        "caffe: BGR less the mean, stride in the first 1 x 1 convolutions (PanoOcc).",
    )
    deformable_stages: tuple[int, ...] = Field(
        (), description="Stages 1..4 of the backbone with modulated deformable convolutions; 3 and 4 in PanoOcc."
    )
    frozen_stages: int = Field(0, ge=0, le=4, description="First stages, with the stem, that are not trained; 0: none.")
    frozen_norms: bool = Field(
        False, description="Batch norms of the backbone keep their stored statistics and are not trained."
    )
    strides: tuple[int, ...] = Field((4, 8, 16, 32, 64), description="Feature scales (T of them), pixels per cell.")
    stride_64: Literal["pool", "convolution"] = Field(
        "pool", description="How stride 64 comes from stride 32: every second cell, or a convolution (PanoOcc)."
    )
    channels: int = Field(256, ge=8, description="Channels d of image features, prototypes and voxel queries.")

    query_shape: tuple[int, int, int] = Field((50, 50, 16), description="Voxel queries (h, w, z) along x, y, z.")
    encoder_layers: int = Field(3, ge=1, description="Layers of the view transformation.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    points: int = Field(8, ge=1, description="Sampling points per head and feature scale, and per voxel queue.")
    ffn_channels: int = Field(512, ge=1, description="Hidden channels of the feed-forward block.")
    pillar_heights: int = Field(
        1, ge=1, description="Heights at which a query looks for images: 1 for voxels, 8 for the pillars of BEVFormer."
    )

    depth_attention: bool = Field(
        False, description="Weigh attention samples by a predicted distribution over depth (DFA3D)."
    )

    frames: int = Field(1, ge=1, description="Keyframes that are read: the present one and earlier ones.")
    frame_interval: int = Field(4, ge=1, description="Keyframes from one of them to the next.")
    temporal: Literal["fusion", "recurrence"] = Field(
        "fusion",
        description="How earlier frames enter. fusion: one convolution block over all encoded frames (PanoOcc); "
        "recurrence: self attention reads the encoded frame before (BEVFormer).",
    )
    recompute: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, same gradients."
    )

    prototype_mapping: bool = Field(True, description="Map image prototypes onto voxel queries, equation (1).")
    prototype_optimisation: bool = Field(True, description="Compute pixel features X, equation (2), for the mask loss.")
    prototype_cell: int = Field(4, ge=1, description="Edge r of the cell that starts a prototype, feature cells.")
    clustering_stride: int = Field(8, description="Feature scale that is clustered, pixels per cell.")
    clustering_iterations: int = Field(3, ge=0, description="Soft assignment rounds; 0 keeps the cell means.")

    multi_perspective: bool = Field(True, description="Decode augmented views beside the original in training.")
    augmentations: tuple[Augmentation, ...] = Field(("dropout", "gaussian"), description="One view each (P of them).")
    dropout: float = Field(0.1, ge=0, lt=1, description="Probability that a query value is dropped.")
    noise: float = Field(0.1, ge=0, description="Standard deviation of the added Gaussian noise.")
    upsample: tuple[UpsampleStage, ...] = Field(
        (
            UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=256),
            UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=32),
        ),
        min_length=1,
        description="Transposed convolutions from (h, w, z) to the grid.",
    )
    classifier_channels: int = Field(32, ge=1, description="Hidden channels of the label classifier.")
    free_prior: float = Field(
        0.8, gt=0, lt=1, description="Share of free voxels that the untrained classifier predicts."
    )

    @property
    def views(self) -> int:
        """P + 1: decoded views of a training step."""
        return 1 + (len(self.augmentations) if self.multi_perspective else 0)

    @model_validator(mode="after")
    def _check_shapes(self) -> ModelConfig:
        size = list(self.query_shape)
        for stage in self.upsample:
            size = [n * s for n, s in zip(size, stage.stride, strict=True)]
        if tuple(size) != self.grid.shape:
            raise ValueError(
                f"upsample turns query_shape {self.query_shape} into {size}, the grid is {self.grid.shape}"
            )
        is_square = self.query_shape[0] == self.query_shape[1] and self.grid.shape[0] == self.grid.shape[1]
        if "transpose" in self.augmentations and not is_square:
            raise ValueError(
                f"augmentation 'transpose' needs h = w; query_shape {self.query_shape}, grid {self.grid.shape}"
            )
        if self.points % self.pillar_heights:
            raise ValueError(f"points {self.points} must be a multiple of pillar_heights {self.pillar_heights}")
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} must be a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _check_backbone(self) -> ModelConfig:
        is_plain = self.backbone_style == "torchvision" and not self.deformable_stages
        if self.backbone in ("resnet18", "resnet34") and not is_plain:
            raise ValueError(
                f"backbone {self.backbone} has no style 'caffe' and no deformable stages; use resnet50 or resnet101"
            )
        used = sum(stride <= max(self.strides, default=0) for stride in (4, 8, 16, 32))
        if not set(self.deformable_stages) <= set(range(1, used + 1)) or self.frozen_stages > used:
            raise ValueError(
                f"deformable_stages {self.deformable_stages} and frozen_stages {self.frozen_stages} must lie within "
                f"the {used} stages that strides {self.strides} use"
            )
        return self

    @model_validator(mode="after")
    def _check_scales(self) -> ModelConfig:
        allowed = (4, 8, 16, 32, 64)
        first = allowed.index(self.strides[0]) if self.strides and self.strides[0] in allowed else -1
        if first < 0 or self.strides != allowed[first : first + len(self.strides)] or self.strides[0] == 64:
            raise ValueError(f"strides {self.strides} must be neighbours out of {allowed} and start below 64")
        if self.strides[-1] == 64 and 32 not in self.strides:
            raise ValueError(f"strides {self.strides}: 64 is pooled from 32, which is missing")
        if self.clustering_stride not in self.strides:
            raise ValueError(f"clustering_stride {self.clustering_stride} is not one of strides {self.strides}")
        if self.prototype_optimisation and not self.prototype_mapping:
            raise ValueError(
                "prototype_optimisation needs prototype_mapping: pixel features are made of its prototypes"
            )
        return self
