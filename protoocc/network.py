"""What every network offers; trainer, checkpoints, predictions, scores and pictures know no more of one than this.

A network is a module with a frozen configuration whose ``kind`` stands in `protoocc.hosts.HOSTS`. It turns a `Batch`
into a `NetworkOutput`: class logits for the losses that all networks share, and optional extras for further ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.pixels import PixelOutput
from schemas.classes import OCC3D
from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.settings import Frozen


class NetworkConfig(Frozen):
    """What the settings of every network say; each kind adds its own fields and a fixed ``kind``."""

    kind: str = Field(description="Which network this is, see `protoocc.hosts`.")
    num_classes: int = Field(OCC3D.num_classes, ge=2, description="Classes L of the labels, free space included.")
    free: int | None = Field(None, ge=0, description="Class that means free space; null: the last one.")
    grid: VoxelGrid = Field(OCC3D_GRID, description="Output voxel grid, ego frame.")
    frames: int = Field(1, ge=1, description="Keyframes that are read: the present one and earlier ones.")
    frame_interval: int = Field(4, ge=1, description="Keyframes from one of them to the next.")

    @model_validator(mode="after")
    def _check_free(self) -> NetworkConfig:
        if self.free_class >= self.num_classes:
            raise ValueError(f"free = {self.free} is none of the {self.num_classes} classes 0..{self.num_classes - 1}")
        return self

    @property
    def free_class(self) -> int:
        """Index of the class that means free space."""
        return self.num_classes - 1 if self.free is None else self.free

    @property
    def reads_depth(self) -> bool:
        """Whether the network reads ``Batch.input_depth_m``."""
        return False

    @property
    def has_fixed_queries(self) -> bool:
        """Whether a rig alone decides which queries look at the images, as an exported graph needs it."""
        return True

    def obstacles(self, *, has_masks: bool, has_weights: bool) -> list[str]:
        """Why this network cannot be trained, each with its remedy; empty where it can.

        Args:
            has_masks: the shards hold pseudo masks.
            has_weights: the run starts from published weights.
        """
        return []


@dataclass(frozen=True)
class NetworkOutput:
    """What the losses read.

    Attributes:
        logits: class logits of the chosen voxels in each view; view 0 is the original, further ones are augmented.
        voxels: the chosen voxels, positions in the flattened (B, X, Y, Z) volume.
        pixel_features: features of image cells for the mask loss, equation (3); None without that loss.
        pixel_seen: whether a cell counts in that loss; given wherever ``pixel_features`` are.
        pixel_stride: pixels per cell of that grid; given wherever ``pixel_features`` are.
        pixels: class and depth of image cells, for the losses of single pixels; None without them.
        auxiliary: class logits of the same voxels by earlier layers, in training; empty for most networks.
    """

    logits: Float[Tensor, "views n L"]
    voxels: Int64[Tensor, " n"]
    pixel_features: Float[Tensor, "B V h w d"] | None = None
    pixel_seen: Bool[Tensor, "B V h w"] | None = None
    pixel_stride: int | None = None
    pixels: PixelOutput | None = None
    auxiliary: tuple[Float[Tensor, "n L"], ...] = ()


@dataclass(frozen=True)
class ImagePrototypes:
    """How a network groups the image cells of one sample.

    Attributes:
        features: of each cell that lies within the image.
        prototypes: of each camera; a cell belongs to the one it is most similar to.
    """

    features: Float[Tensor, "V d h w"]
    prototypes: Float[Tensor, "V M d"]


class Network(nn.Module, ABC):
    """A network from images to occupancy."""

    Config: ClassVar[type[NetworkConfig]]
    """Settings that it is built from: ``Config.kind`` is its key in `protoocc.hosts.HOSTS`."""
    backbone_prefix: ClassVar[str | tuple[str, ...] | None] = None
    """How names of parameters with the backbone's learning rate start; None where all learn alike."""

    config: NetworkConfig

    @abstractmethod
    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of chosen voxels, and what further losses need.

        Args:
            batch: images and calibration; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all (`losses.choose_voxels`).

        Raises:
            DataError: the batch lacks something that the network reads.
        """

    @torch.no_grad()
    def predict(self, batch: Batch) -> UInt8[Tensor, "B X Y Z"]:
        """Most probable class of each voxel, from the original view.

        Raises:
            RuntimeError: the network is in training mode, where its answer would be random; call ``eval()`` first.
        """
        if self.training:
            raise RuntimeError("predict needs evaluation mode: call model.eval() first")
        return self._classify(batch).view(len(batch.tokens), *self.config.grid.shape)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """Most probable class of all voxels of the flattened (B, X, Y, Z) volume."""
        classes: Tensor = self(batch).logits[0].argmax(-1).to(torch.uint8)
        return classes

    def trained_parts(self) -> dict[str, str]:
        """Parts that keep the weights of another run: start of their names, here and there, and its run folder."""
        return {}

    def image_prototypes(self, batch: Batch) -> ImagePrototypes | None:
        """How the cells of the images of a batch of one are grouped; None for networks that group nothing."""
        return None
