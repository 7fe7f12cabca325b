"""What networks that read images with `backbone.ImageFeatures` share: the features, heads on their cells, freezing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoocc.model.backbone import ImageFeatures, padded_size
from protoocc.model.image_config import ImageConfig
from protoocc.model.pixel_heads import network_heads
from protoocc.model.projection import HitQueries, find_hits
from protoocc.network import Network
from protoocc.pixels import DepthBins, DepthShares, PixelLogits, PixelOutput


class ImageNetwork(Network):
    """Image features and pixel heads, which keep their weights where the settings say so."""

    backbone_prefix: ClassVar[str | tuple[str, ...] | None] = "image_features.resnet."

    def __init__(self, config: ImageConfig, image_features: nn.Module | None = None) -> None:
        """Random weights; ``image_features`` None for residual network and pyramid."""
        super().__init__()
        self.image_config = config
        self.image_features = ImageFeatures(config) if image_features is None else image_features
        self.pixel_heads = network_heads(config)
        if config.frozen_features:
            for part in self._image_parts():
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> ImageNetwork:
        """Training mode for all but frozen image features, whose norms go on using their stored statistics."""
        super().train(mode)
        if self.image_config.frozen_features:
            for part in self._image_parts():
                part.eval()
        return self

    def read_pixels(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> PixelLogits | None:
        """What the heads say about the cells of their scale; None without heads."""
        if self.pixel_heads is None:
            return None
        stride = self.pixel_heads.stride
        logits: PixelLogits = self.pixel_heads(features[self.image_config.strides.index(stride)], stride)
        return logits

    def pixel_output(self, logits: PixelLogits | None, shares: DepthShares | None = None) -> PixelOutput | None:
        """What the losses of single pixels read.

        Args:
            logits: of the heads.
            shares: depth as the attention has it, where it is weighted by depth.

        Returns:
            None without both.
        """
        if logits is None and shares is None:
            return None
        config = self.image_config
        bins = DepthBins(*config.depth_range_m, config.depth_bins)
        return PixelOutput(logits, bins, shares, config.grid, config.free_class)

    @property
    def teaches_pixels(self) -> bool:
        """Whether losses of single pixels would train anything now."""
        return self.training and torch.is_grad_enabled() and not self.image_config.frozen_features

    @abstractmethod
    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """Points by which the network's queries or cells look for images, metres, ego frame."""

    def find_hits(
        self,
        image_size: tuple[int, int],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
    ) -> HitQueries:
        """Which of the network's anchors each camera sees, for images of (H, W) pixels."""
        return self.hits_of(self.anchors(), image_size, image_from_camera, camera_from_ego)

    def hits_of(
        self,
        anchors_ego: Float[Tensor, "q anchors 3"],
        image_size: tuple[int, int],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
    ) -> HitQueries:
        """Hits of any points: the one place where points meet cameras, for an exporter to do in its own way."""
        return find_hits(
            anchors_ego,
            camera_from_ego,
            image_from_camera,
            image_size=image_size,
            padded_size=padded_size(*image_size),
        )

    def _image_parts(self) -> list[nn.Module]:
        return [part for part in (self.image_features, self.pixel_heads) if part is not None]
