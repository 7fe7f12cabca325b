"""A plain network to compare with: look up the images at voxel centres, a U-Net over x and y, a linear classifier.

In the manner of SimpleBEV (arXiv 2206.07959): no attention, no prototypes, no depth, no learned queries. Each cell
takes the mean over its cameras of the bilinear samples at its centre, summed over the scales of the features.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from protoocc.batch import Batch
from protoocc.model.decoder import classifier_bias
from protoocc.model.image_config import ImageConfig
from protoocc.model.image_network import ImageNetwork
from protoocc.model.lifting import mean_of_cameras, read_images
from protoocc.model.projection import query_centers
from protoocc.model.unet import UNet
from protoocc.network import NetworkConfig, NetworkOutput


class PlainConfig(ImageConfig):
    """Settings of the plain network."""

    kind: Literal["plain"] = Field("plain", description="Project, sample, U-Net.")
    cells: tuple[int, int, int] = Field((100, 100, 4), description="Cells (x, y, z) at whose centres images are read.")
    width: int = Field(64, ge=8, description="Channels of the U-Net at its finest resolution.")
    voxel_channels: int = Field(16, ge=1, description="Channels of a voxel before the classifier.")
    free_prior: float = Field(0.8, gt=0, lt=1, description="Share of free voxels that the untrained network predicts.")

    @property
    def parts(self) -> tuple[int, int, int]:
        """Voxels of a cell along x, y, z."""
        x, y, z = (voxels // cells for voxels, cells in zip(self.grid.shape, self.cells, strict=True))
        return x, y, z

    @model_validator(mode="after")
    def _check_cells(self) -> PlainConfig:
        if any(voxels % cells for voxels, cells in zip(self.grid.shape, self.cells, strict=True)):
            raise ValueError(f"cells {self.cells} must divide the grid {self.grid.shape}")
        if self.frames > 1:
            raise ValueError(f"frames = {self.frames}: the plain network reads one frame")
        return self


class Plain(ImageNetwork):
    """Project, sample, U-Net, classify."""

    Config: ClassVar[type[NetworkConfig]] = PlainConfig
    config: PlainConfig
    cells_ego: Tensor

    def __init__(self, config: PlainConfig) -> None:
        """Random weights; the classifier starts at the prior of free space."""
        super().__init__(config)
        self.config = config
        layers, voxels = config.cells[2], math.prod(config.parts)
        self.unet = UNet(layers * config.channels, config.width, layers * voxels * config.voxel_channels)
        self.label = nn.Linear(config.voxel_channels, config.num_classes)
        with torch.no_grad():
            self.label.bias.copy_(classifier_bias(config.num_classes, config.free_class, config.free_prior))
        centers = query_centers(config.grid, config.cells).flatten(0, 2)
        self.register_buffer("cells_ego", centers, persistent=False)

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of one view.

        Args:
            batch: images and calibration; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all.
        """
        size = (batch.images.shape[-2], batch.images.shape[-1])
        hits = self.find_hits(size, batch.image_from_camera, batch.camera_from_ego)
        features = self.image_features(batch.images.flatten(0, 1))
        samples = len(batch.images)
        cells = mean_of_cameras(read_images(features, hits), hits, samples * len(self.cells_ego))
        volume = self._volume(cells.view(samples, *self.config.cells, -1))
        if voxels is None:
            voxels = torch.arange(volume.shape[0], device=volume.device)
        logits = self.label(functional.relu(volume.index_select(0, voxels)))[None]
        return NetworkOutput(logits, voxels)

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """The middle of each cell."""
        return self.cells_ego[:, None]

    def _volume(self, cells: Float[Tensor, "B X Y Z d"]) -> Float[Tensor, "voxels c"]:
        """Features of all voxels of the (B, X, Y, Z) volume of the grid, flattened."""
        plane = self.unet(cells.flatten(3))
        x, y, z = self.config.parts
        parts = plane.unflatten(3, (cells.shape[3], x, y, z, -1))  # (B, X, Y, layer, part x, part y, part z, c)
        return parts.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(0, 6)
