"""Image features: residual network and feature pyramid (section 3.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, deform_conv2d

from protoocc.model.image_config import BackboneName, ImageConfig

BLOCKS: Final[dict[BackboneName, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Block type and number of blocks in stages 1 to 4."""
_STRIDES = (4, 8, 16, 32)
_PAD_MULTIPLE = 32
_COLOURS = {
    "torchvision": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
}
"""Mean and deviation of each style's channels, 0..255: RGB for torchvision, BGR for caffe."""


class ModulatedDeformConv2d(nn.Conv2d):
    """3 x 3 convolution whose nine taps move and fade by what the features say (Deformable ConvNets v2).

    ``conv_offset`` gives 27 channels per cell: the shifts (dy, dx) of the taps in cells, tap after tap in rows, then a
    logit per tap that fades it. It starts at zero: taps at rest, half strength.
    """

    def __init__(self, channels: int, stride: int) -> None:
        """Keeps the number of channels; names are mmcv's."""
        super().__init__(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.conv_offset = nn.Conv2d(channels, 27, 3, stride=stride, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "n c H W"]) -> Float[Tensor, "n c _ _"]:
        """(n, c, H, W) -> (n, c, ceil(H / stride), ceil(W / stride)); sampled in float32 under autocast."""
        shifts, fade = self.conv_offset(features).to(self.weight.dtype).split([18, 9], dim=1)
        features, mask = features.to(self.weight.dtype), fade.sigmoid()
        result: Tensor = deform_conv2d(
            features, shifts, self.weight, stride=self.stride, padding=self.padding, mask=mask
        )
        return result


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


class ResNet(nn.Module):
    """Residual network of torchvision blocks, with a width of its own and only the stages that are used.

    Parameter names are torchvision's, which mmdetection shares, so published weights of width 64 fit. Style "caffe"
    puts the stride of a stage into its first 1 x 1 convolution, "torchvision" into the 3 x 3 after it.
    """

    def __init__(self, config: ImageConfig) -> None:
        """Builds the stages up to the coarsest of ``config.strides``."""
        super().__init__()
        block, depths = BLOCKS[config.backbone]
        self.frozen_stages, self.frozen_norms = config.frozen_stages, config.frozen_norms
        inputs = config.backbone_width
        self.conv1 = nn.Conv2d(3, inputs, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.out_channels: dict[int, int] = {}
        for number, (depth, stride) in enumerate(zip(depths, _STRIDES, strict=True), start=1):
            if stride > config.strides[-1]:
                break
            outputs = config.backbone_width * 2 ** (number - 1) * block.expansion
            blocks = [_block(config, number, inputs, stride=1 if number == 1 else 2)]
            blocks += [_block(config, number, outputs, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.out_channels[stride] = inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:  # what has a bias places deformable taps
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self._frozen():
            module.requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> dict[int, Tensor]:
        """Features (n, C, H/stride, W/stride) by stride."""
        return self.stages(self.stem(images))

    def stem(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c _ _"]:
        """Features of stride 2."""
        return functional.relu(self.bn1(self.conv1(images)), inplace=True)

    def stages(self, stem: Float[Tensor, "n c _ _"]) -> dict[int, Tensor]:
        """Features by stride, from those of the stem."""
        features = functional.max_pool2d(stem, kernel_size=3, stride=2, padding=1)
        scales: dict[int, Tensor] = {}
        for number, stride in enumerate(self.out_channels, start=1):
            features = self.get_submodule(f"layer{number}")(features)
            scales[stride] = features
        return scales

    def train(self, mode: bool = True) -> ResNet:
        """Training mode for all but the frozen parts, whose norms go on using their stored statistics."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        if self.frozen_stages:
            yield self.conv1
            yield self.bn1
        for number in range(1, self.frozen_stages + 1):
            yield self.get_submodule(f"layer{number}")
        if self.frozen_norms:
            yield from (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def _block(config: ImageConfig, number: int, inputs: int, *, stride: int) -> nn.Module:
    """One residual block of stage ``number``."""
    block = BLOCKS[config.backbone][0]
    planes = config.backbone_width * 2 ** (number - 1)
    outputs = planes * block.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(_StridedPointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    is_caffe = config.backbone_style == "caffe"
    built = block(inputs, planes, 1 if is_caffe else stride, shortcut)
    if is_caffe and stride != 1:
        built.conv1 = _StridedPointwise(inputs, planes, stride)
    if number in config.deformable_stages:
        built.conv2 = ModulatedDeformConv2d(planes, 1 if is_caffe else stride)
    return built


class ImageReader(nn.Module):
    """A network over images, which it takes as they are stored.

    Images are padded at the right and the bottom to a multiple of 32 pixels (432 -> 448) with the mean colour. Pixel
    coordinates stay as they were, so intrinsics need no change.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageConfig) -> None:
        """Colours of ``config.backbone_style``."""
        super().__init__()
        self.reads_bgr = config.backbone_style == "caffe"
        mean, std = _COLOURS[config.backbone_style]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def normalised(self, images: UInt8[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 _ _"]:
        """Padded images of mean 0 and deviation 1; they come as RGB."""
        height, width = padded_size(images.shape[-2], images.shape[-1])
        colours = images.flip(1) if self.reads_bgr else images
        normalised = (colours.to(self.mean.dtype) - self.mean) / self.std
        padded = functional.pad(normalised, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        return padded.contiguous(memory_format=torch.channels_last)


class ImageFeatures(ImageReader):
    """Multi-scale image features F of d channels, by ResNet and FPN."""

    def __init__(self, config: ImageConfig) -> None:
        """Builds backbone and pyramid for ``config.strides``."""
        super().__init__(config)
        self.strides = config.strides
        self.resnet = ResNet(config)
        inputs = [self.resnet.out_channels[stride] for stride in config.strides if stride <= 32]
        self.pyramid = FeaturePyramidNetwork(inputs, config.channels)
        self.stride_64: nn.Module | None = None
        if config.strides[-1] == 64:
            self.stride_64 = nn.MaxPool2d(1, stride=2) if config.stride_64 == "pool" else _halving(config.channels)

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n d _ _"]]:
        """Features of each scale, finest first: (n, d, H'/stride, W'/stride), H' W' the padded size; images are RGB."""
        scales = self.resnet(self.normalised(images))
        pyramid = self.pyramid(OrderedDict((str(s), scales[s]) for s in self.strides if s <= 32))
        features = list(pyramid.values())
        if self.stride_64 is not None:
            features.append(self.stride_64(features[-1]))
        return features


def _halving(channels: int) -> nn.Conv2d:
    """The 3 x 3 convolution of stride 2 by which PanoOcc's pyramid goes from stride 32 to 64."""
    convolution = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Image size in pixels after padding to a multiple of 32."""
    return (-(-height // _PAD_MULTIPLE) * _PAD_MULTIPLE, -(-width // _PAD_MULTIPLE) * _PAD_MULTIPLE)
