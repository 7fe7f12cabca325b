"""MonoScene (arXiv 2112.00726): cells take the features of the pixels they land on, and a 3D U-Net tells them apart.

No queries and no attention: all that tells the cells along a ray apart is the 3D network. Published for one camera;
with several, a cell takes the mean over those that see it.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.model.decoder import classifier_bias
from protoocc.model.image_config import ImageConfig
from protoocc.model.image_network import ImageNetwork
from protoocc.model.image_unet import EncoderName, ImageUNet
from protoocc.model.lifting import mean_of_cameras
from protoocc.model.line_of_sight import gather_pixels
from protoocc.model.projection import HitQueries, query_centers
from protoocc.model.unet3d import DIVISOR, UNet3d, VoxelHead, doubling
from protoocc.network import NetworkConfig, NetworkOutput


class MonoSceneConfig(ImageConfig):
    """Settings of MonoScene; the defaults are its network for SemanticKITTI on our residual network."""

    kind: Literal["monoscene"] = Field("monoscene", description="Line of sight, 3D U-Net.")
    image_decoder: Literal["unet", "pyramid"] = Field(
        "unet",
        description="unet: maps of strides 1, 2, 4 and 8, as published; pyramid: those of `strides`, which is cheaper "
        "and reads the weights that ship with the package.",
    )
    image_encoder: EncoderName = Field(
        "resnet",
        description="What image_decoder unet decodes: the residual network `backbone`, or EfficientNet-B7 as "
        "published, which always learns at the full rate (optimizer.backbone_lr_factor is for residual networks).",
    )
    voxels_per_cell: Literal[1, 2] = Field(2, description="Edge of a cell of the 3D U-Net's finest resolution, voxels.")
    width: int = Field(64, ge=8, multiple_of=4, description="Channels of these cells.")
    context_relations: int = Field(
        4, ge=0, description="Relations between all cells of the coarsest resolution (3D CRP); 0: none."
    )
    free_prior: float = Field(0.8, gt=0, lt=1, description="Share of free voxels that the untrained network predicts.")

    @property
    def cells(self) -> tuple[int, int, int]:
        """Cells along x, y, z."""
        x, y, z = (voxels // self.voxels_per_cell for voxels in self.grid.shape)
        return x, y, z

    @model_validator(mode="after")
    def _check_cells(self) -> MonoSceneConfig:
        least = DIVISOR * self.voxels_per_cell
        if any(voxels % least for voxels in self.grid.shape):
            raise ValueError(f"grid {self.grid.shape} must be a multiple of {least} voxels along each axis")
        if self.context_relations and min(self.cells) < 2 * DIVISOR:
            raise ValueError(
                f"context_relations need {2 * DIVISOR} cells along each axis, found {self.cells}; set them to 0"
            )
        if self.frames > 1:
            raise ValueError(f"frames = {self.frames}: MonoScene reads one frame")
        return self

    @model_validator(mode="after")
    def _check_images(self) -> MonoSceneConfig:
        if self.image_decoder == "unet" and self.strides != (4, 8, 16, 32):
            raise ValueError(f"strides {self.strides}: image_decoder unet decodes (4, 8, 16, 32)")
        if self.image_encoder != "resnet" and self.image_decoder != "unet":
            raise ValueError(f"image_encoder {self.image_encoder} needs image_decoder unet")
        if self.image_encoder != "resnet" and (self.backbone_style != "torchvision" or self.frozen_stages):
            raise ValueError(f"image_encoder {self.image_encoder} has backbone_style torchvision and no frozen_stages")
        if self.pixel_classes or self.pixel_depth:
            raise ValueError("MonoScene has no heads for image cells: set pixel_classes and pixel_depth to false")
        return self


class MonoScene(ImageNetwork):
    """Look up pixels, 3D U-Net, upsample, classify."""

    Config: ClassVar[type[NetworkConfig]] = MonoSceneConfig
    config: MonoSceneConfig
    cells_ego: Tensor

    def __init__(self, config: MonoSceneConfig) -> None:
        """Random weights; the classifier starts at the prior of free space."""
        decoded = ImageUNet(config, config.image_encoder) if config.image_decoder == "unet" else None
        super().__init__(config, decoded)
        self.config = config
        same = config.channels == config.width
        self.narrow = nn.Identity() if same else nn.Linear(config.channels, config.width, bias=False)
        self.unet = UNet3d(config.width, config.cells, config.context_relations)
        fine = config.width // config.voxels_per_cell
        self.upsample = nn.Identity() if config.voxels_per_cell == 1 else doubling(config.width, fine)
        bias = classifier_bias(config.num_classes, config.free_class, config.free_prior)
        self.head = VoxelHead(fine, config.num_classes, bias)
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
        cells = self.lift(self.image_features(batch.images.flatten(0, 1)), hits, len(batch.images))
        volume = self.upsample(self.unet(cells.movedim(-1, 1)))
        volume = volume.contiguous(memory_format=torch.channels_last_3d)  # a third faster on a CPU
        logits = self.head(volume).movedim(1, -1).flatten(0, 3)
        if voxels is None:
            voxels = torch.arange(logits.shape[0], device=logits.device)
        else:
            logits = logits.index_select(0, voxels)
        return NetworkOutput(logits[None], voxels)

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """The middle of each cell."""
        return self.cells_ego[:, None]

    def lift(
        self, maps: list[Float[Tensor, "cameras d _ _"]], hits: HitQueries, samples: int
    ) -> Float[Tensor, "B X Y Z c"]:
        """What the cells see; zero where no camera sees them.

        Args:
            maps: one per scale of all B*V cameras.
            hits: cells that each camera sees.
            samples: B.
        """
        seen = mean_of_cameras(gather_pixels(maps, hits), hits, samples * math.prod(self.config.cells))
        cells: Tensor = self.narrow(seen).view(samples, *self.config.cells, -1)
        return cells
