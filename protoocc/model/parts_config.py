"""Settings of the paper's parts, which any network of voxel queries may take: prototypes and several perspectives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from protoocc.model.image_config import ImageConfig
from schemas.settings import Frozen

Augmentation = Literal["dropout", "gaussian", "transpose", "flip_x", "flip_y"]
"""One voxel augmentation of section 3.3.1: two act on features, three on space."""


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


class PartsConfig(ImageConfig):
    """Section 3 of the paper as switches of a network of voxel queries, which a host turns off by its defaults."""

    query_shape: tuple[int, int, int] = Field((50, 50, 16), description="Voxel queries (h, w, z) along x, y, z.")
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

    def check_upsampling(self, cells: tuple[int, int, int], what: str) -> None:
        """Refuses transposed convolutions that do not lead to the grid.

        Args:
            cells: (X, Y, Z) that they start from.
            what: these cells in words, for the message.

        Raises:
            ValueError: they lead to another shape.
        """
        size = list(cells)
        for stage in self.upsample:
            size = [n * s for n, s in zip(size, stage.stride, strict=True)]
        if tuple(size) != self.grid.shape:
            raise ValueError(f"upsample turns {what} into {size}, the grid is {self.grid.shape}")

    def obstacles(self, *, has_masks: bool, has_weights: bool) -> list[str]:
        """Why this network cannot be trained: pixel features are for the mask loss, which needs pseudo masks."""
        found = super().obstacles(has_masks=has_masks, has_weights=has_weights)
        if self.prototype_optimisation and not has_masks:
            found.append(
                "the shards hold no pseudo masks, which the contrastive loss needs. Run `protoocc masks` and pack "
                "again, or set model.prototype_optimisation=false."
            )
        return found

    @model_validator(mode="after")
    def _check_transpose(self) -> PartsConfig:
        is_square = self.query_shape[0] == self.query_shape[1] and self.grid.shape[0] == self.grid.shape[1]
        if "transpose" in self.augmentations and not is_square:
            raise ValueError(
                f"augmentation 'transpose' needs h = w; query_shape {self.query_shape}, grid {self.grid.shape}"
            )
        return self

    @model_validator(mode="after")
    def _check_prototypes(self) -> PartsConfig:
        if self.clustering_stride not in self.strides:
            raise ValueError(f"clustering_stride {self.clustering_stride} is not one of strides {self.strides}")
        if self.prototype_optimisation and not self.prototype_mapping:
            raise ValueError(
                "prototype_optimisation needs prototype_mapping: pixel features are made of its prototypes"
            )
        return self
