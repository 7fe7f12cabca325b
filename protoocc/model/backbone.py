"""Image features: residual network and feature pyramid (section 3.1)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork

from protoocc.model.config import ModelConfig

_BLOCKS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
_PAD_MULTIPLE = 32
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ResNet(nn.Module):
    """Residual network of torchvision blocks, with a width of its own and only the stages that are used.

    Parameter names are torchvision's, so its published weights of width 64 fit.
    """

    def __init__(self, name: str, width: int, last_stride: int) -> None:
        """Builds the stages up to ``last_stride`` (4, 8, 16 or 32) pixels per cell."""
        super().__init__()
        block, depths = _BLOCKS[name]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.out_channels: dict[int, int] = {}
        inputs = width
        for number, (depth, stride) in enumerate(zip(depths, (4, 8, 16, 32), strict=True)):
            if stride > last_stride:
                break
            stage, inputs = _residual_stage(block, inputs, width * 2**number, depth, stride=1 if number == 0 else 2)
            self.add_module(f"layer{number + 1}", stage)
            self.out_channels[stride] = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> dict[int, Tensor]:
        """Features (n, C, H/stride, W/stride) by stride."""
        features = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        features = functional.max_pool2d(features, kernel_size=3, stride=2, padding=1)
        scales: dict[int, Tensor] = {}
        for number, stride in enumerate(self.out_channels):
            features = self.get_submodule(f"layer{number + 1}")(features)
            scales[stride] = features
        return scales


class _StridedPointwise(nn.Conv2d):
    """A 1 x 1 convolution that drops cells first and then mixes channels.

    The result is that of a strided 1 x 1 convolution, whose backward pass in oneDNN (torch 2.14, 8 channels,
    channels-last) writes past the end of its memory.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.drop = stride

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs, H, W) -> (n, outputs, ceil(H / stride), ceil(W / stride))."""
        return super().forward(features[:, :, :: self.drop, :: self.drop])


def _residual_stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, depth: int, *, stride: int
) -> tuple[nn.Sequential, int]:
    outputs = planes * block.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(_StridedPointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    blocks = [block(inputs, planes, stride, shortcut)]
    blocks += [block(outputs, planes) for _ in range(depth - 1)]
    return nn.Sequential(*blocks), outputs


class ImageFeatures(nn.Module):
    """Multi-scale image features F of d channels, by ResNet and FPN.

    Images are padded at the right and the bottom to a multiple of 32 pixels (432 -> 448) with the mean colour. Pixel
    coordinates stay as they were, so intrinsics need no change.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Builds backbone and pyramid for ``config.strides``; stride 64 is every second cell of stride 32."""
        super().__init__()
        self.strides = config.strides
        self.resnet = ResNet(config.backbone, config.backbone_width, last_stride=min(config.strides[-1], 32))
        inputs = [self.resnet.out_channels[stride] for stride in config.strides if stride <= 32]
        self.pyramid = FeaturePyramidNetwork(inputs, config.channels)
        self.register_buffer("mean", 255.0 * torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255.0 * torch.tensor(_IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n d _ _"]]:
        """Features of each scale, finest first: (n, d, H'/stride, W'/stride), H' W' the padded size."""
        height, width = padded_size(images.shape[-2], images.shape[-1])
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        padded = functional.pad(normalised, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        scales = self.resnet(padded.contiguous(memory_format=torch.channels_last))
        pyramid = self.pyramid(OrderedDict((str(s), scales[s]) for s in self.strides if s <= 32))
        features = list(pyramid.values())
        if self.strides[-1] == 64:
            features.append(functional.max_pool2d(features[-1], kernel_size=1, stride=2))
        return features


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Image size in pixels after padding to a multiple of 32."""
    return (-(-height // _PAD_MULTIPLE) * _PAD_MULTIPLE, -(-width // _PAD_MULTIPLE) * _PAD_MULTIPLE)
