"""A U-Net over single images: features of an encoder, decoded up to the resolution of the images (MonoScene)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import efficientnet_b7

from protoocc.model.backbone import ImageReader, ResNet
from protoocc.model.image_config import ImageConfig

EncoderName = Literal["resnet", "efficientnet_b7"]

STRIDES: Final = (1, 2, 4, 8)
"""Pixels per cell of the maps, finest first."""
_EFFICIENT: Final[dict[int, tuple[int, int]]] = {2: (1, 32), 4: (2, 48), 8: (3, 80), 16: (5, 224), 32: (8, 2560)}
"""Last stage of EfficientNet-B7 at each stride, and its channels."""


class ImageUNet(ImageReader):
    """Maps of strides 1, 2, 4 and 8 with d channels each.

    From the encoder's coarsest map upwards, a map is resized to the next finer one, joined with it and convolved twice
    into half its channels; the finest one that is joined is the image itself.
    """

    def __init__(self, config: ImageConfig, encoder: EncoderName) -> None:
        """Random weights.

        Args:
            config: channels d, and which residual network.
            encoder: ``resnet`` for that one.
        """
        super().__init__(config)
        self.resnet: ResNet | None = None
        self.efficientnet: nn.Sequential | None = None
        if encoder == "resnet":
            self.resnet = ResNet(config)
            skips = [3, config.backbone_width, *(self.resnet.out_channels[stride] for stride in (4, 8, 16))]
            coarsest = self.resnet.out_channels[32]
        else:  # without dropped layers, which would draw from torch's global generator
            self.efficientnet = efficientnet_b7(stochastic_depth_prob=0.0).features
            skips, coarsest = [3, *(_EFFICIENT[stride][1] for stride in (2, 4, 8, 16))], _EFFICIENT[32][1]
        self.start = nn.Conv2d(coarsest, coarsest, 1)
        widths = [coarsest // 2**halvings for halvings in range(len(skips) + 1)]
        steps = zip(widths, reversed(skips), widths[1:], strict=False)
        self.up = nn.ModuleList(_block(above + skip, width) for above, skip, width in steps)
        self.out = nn.ModuleList(nn.Conv2d(width, config.channels, 1) for width in widths[-len(STRIDES) :])

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n d _ _"]]:
        """Maps of the padded images, finest first."""
        *skips, coarsest = self._encoded(self.normalised(images))
        features, maps = self.start(coarsest), []
        for skip, block in zip(reversed(skips), self.up, strict=True):
            above = functional.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            features = block(torch.cat([above, skip], dim=1))
            maps.append(features)
        return [out(each) for out, each in zip(self.out, maps[-len(STRIDES) :], strict=True)][::-1]

    def _encoded(self, images: Float[Tensor, "n 3 H W"]) -> Sequence[Float[Tensor, "n _ _ _"]]:
        """The images and features of strides 2 to 32."""
        if self.resnet is not None:
            stem = self.resnet.stem(images)
            return [images, stem, *self.resnet.stages(stem).values()]
        found, features, last = [images], images, {number for number, _ in _EFFICIENT.values()}
        for number, stage in enumerate(self.efficientnet or ()):
            features = stage(features)
            if number in last:
                found.append(features)
        return found


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers)
