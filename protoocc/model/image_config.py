"""Settings of what reads the images: residual network and feature pyramid; networks of several kinds may share it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from protoocc.network import NetworkConfig

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]


class ImageConfig(NetworkConfig):
    """A network that reads images with `backbone.ImageFeatures`, which published weights fill."""

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
    pixel_classes: bool = Field(
        False, description="A head that tells the class of each image cell, for training alone."
    )
    pixel_depth: bool = Field(False, description="A head that tells the depth of each image cell.")
    depth_range_m: tuple[float, float] = Field(
        (1.0, 72.0), description="Nearest and farthest depth that this head tells apart, metres."
    )
    depth_bins: int = Field(48, ge=2, description="Bins of this range, each a fixed factor deeper than the one before.")

    def obstacles(self, *, has_masks: bool, has_weights: bool) -> list[str]:
        """Why this network cannot be trained: frozen stages need weights to keep."""
        if self.frozen_stages == 0 or has_weights:
            return []
        return [
            f"model.frozen_stages={self.frozen_stages} keeps random weights: start from published ones with --weights, "
            "or set model.frozen_stages=0"
        ]

    @model_validator(mode="after")
    def _check_backbone(self) -> ImageConfig:
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
    def _check_depth(self) -> ImageConfig:
        if not 0 < self.depth_range_m[0] < self.depth_range_m[1]:
            raise ValueError(f"depth_range_m {self.depth_range_m} must rise from a depth above 0")
        return self

    @model_validator(mode="after")
    def _check_scales(self) -> ImageConfig:
        allowed = (4, 8, 16, 32, 64)
        first = allowed.index(self.strides[0]) if self.strides and self.strides[0] in allowed else -1
        if first < 0 or self.strides != allowed[first : first + len(self.strides)] or self.strides[0] == 64:
            raise ValueError(f"strides {self.strides} must be neighbours out of {allowed} and start below 64")
        if self.strides[-1] == 64 and 32 not in self.strides:
            raise ValueError(f"strides {self.strides}: 64 is pooled from 32, which is missing")
        return self
