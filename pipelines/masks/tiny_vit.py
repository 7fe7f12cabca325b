"""MobileSAM's image encoder, a TinyViT: convolutions at first, then attention in windows; 16 pixels per feature.

Modules have the names of the published file's weights. Its sizes are Zhang et al., *Faster Segment Anything* (2023),
its parts Wu et al., *TinyViT* (2022), section 3.3, with a last stage that keeps the resolution and Segment Anything's
neck behind it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

HALVINGS: Final = 2
"""Stages whose end halves the resolution; those after them keep it."""


@dataclass(frozen=True)
class WindowStage:
    """Sizes of blocks with attention in windows."""

    width: int
    depth: int
    heads: int
    window: int
    """Side of a window, positions."""
    hidden: int
    """Width between the two layers of a block's MLP."""


@dataclass(frozen=True)
class TinyVitSizes:
    """Sizes of an encoder; the defaults are MobileSAM's (`vit_t`)."""

    width: int = 64
    """Channels of the blocks of convolutions, at a quarter of the resolution; the first convolution has half."""
    depth: int = 2
    hidden: int = 256
    """Channels between the convolutions of a block."""
    stages: tuple[WindowStage, ...] = (
        WindowStage(width=128, depth=2, heads=4, window=7, hidden=512),
        WindowStage(width=160, depth=6, heads=5, window=14, hidden=640),
        WindowStage(width=320, depth=2, heads=10, window=7, hidden=1280),
    )
    features: int = 256
    """Channels of what the decoder gets."""
    classes: int = 1000
    """Of the classifier that the encoder was once, whose weights stand in the file."""


class TinyVit(nn.Module):
    """Image encoder of a Sam, for images of ``img_size`` pixels a side."""

    def __init__(self, sizes: TinyVitSizes, img_size: int) -> None:
        super().__init__()
        self.sizes, self.img_size = sizes, img_size
        self.patch_embed = nn.Sequential(OrderedDict(seq=_stem(sizes.width)))
        widths = [sizes.width, *(stage.width for stage in sizes.stages)]
        blocks = [nn.Sequential(*(ConvolutionBlock(sizes.width, sizes.hidden) for _ in range(sizes.depth)))]
        blocks += [nn.Sequential(*(WindowBlock(stage) for _ in range(stage.depth))) for stage in sizes.stages]
        self.layers = nn.Sequential(
            *(_stage(inside, number, widths[number : number + 2]) for number, inside in enumerate(blocks))
        )
        self.norm_head, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], sizes.classes)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], sizes.features, 1, bias=False),
            LayerNorm2d(sizes.features),
            nn.Conv2d(sizes.features, sizes.features, 3, padding=1, bias=False),
            LayerNorm2d(sizes.features),
        )

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Features of normalised RGB images, a sixteenth of their size; the classifier is not asked."""
        return self.neck(self.layers(self.patch_embed(image)))


class ConvolutionBlock(nn.Module):
    """Widens, looks around in each channel, narrows, and adds what came in."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = _convolution(width, hidden)
        self.conv2 = _convolution(hidden, hidden, side=3, groups=hidden)
        self.conv3 = _convolution(hidden, width)

    def forward(self, image: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Runs the block."""
        inside = functional.gelu(self.conv2(functional.gelu(self.conv1(image))))
        return functional.gelu(image + self.conv3(inside))


class WindowBlock(nn.Module):
    """Attention in windows, a convolution in each channel, an MLP; the first and the last add what came in."""

    def __init__(self, sizes: WindowStage) -> None:
        super().__init__()
        self.window = sizes.window
        self.attn = WindowAttention(sizes)
        self.local_conv = _convolution(sizes.width, sizes.width, side=3, groups=sizes.width)
        self.mlp = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(sizes.width),
                fc1=nn.Linear(sizes.width, sizes.hidden),
                act=nn.GELU(),
                fc2=nn.Linear(sizes.hidden, sizes.width),
            )
        )

    def forward(self, image: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Runs the block."""
        cells = self.local_conv(image + self._attend(image)).permute(0, 2, 3, 1)
        return (cells + self.mlp(cells)).permute(0, 3, 1, 2)

    def _attend(self, image: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Windows start at the corner; the last ones are filled up with zeros, which are attended to like the rest."""
        side, (height, width) = self.window, image.shape[2:]
        padded = functional.pad(image, (0, -width % side, 0, -height % side))
        windows = padded.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 3, 5, 1)
        told = self.attn(windows.flatten(3, 4).flatten(0, 2)).reshape(windows.shape)
        return told.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]


class WindowAttention(nn.Module):
    r"""Attention of a window's positions to each other, with a learned bias b_h for each head h and distance.

    .. math:: softmax(q_i k_j / \sqrt{d} + b_h(|y_i - y_j|, |x_i - x_j|))
    """

    def __init__(self, sizes: WindowStage) -> None:
        super().__init__()
        self.window, self.heads = sizes.window, sizes.heads
        self.norm = nn.LayerNorm(sizes.width)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)
        self.attention_biases = nn.Parameter(torch.zeros(sizes.heads, sizes.window**2))

    def forward(self, cells: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """What the positions of each window, row by row, tell each other; rows of ``qkv`` are sorted by head first."""
        query, key, value = self.qkv(self.norm(cells)).unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        told = functional.scaled_dot_product_attention(query, key, value, attn_mask=self._biases().to(query.dtype))
        return self.proj(told.transpose(1, 2).flatten(2))

    def _biases(self) -> Float[Tensor, "heads N N"]:
        steps = torch.arange(self.window, device=self.attention_biases.device)
        apart = (steps[:, None] - steps).abs()
        table = self.attention_biases.unflatten(1, (self.window, self.window))
        return table[:, apart[:, None, :, None], apart[None, :, None, :]].flatten(3, 4).flatten(1, 2)


def _stage(blocks: nn.Sequential, number: int, widths: list[int]) -> nn.Sequential:
    """Blocks, and before another stage the step to its width."""
    parts = OrderedDict[str, nn.Module](blocks=blocks)
    if len(widths) == 2:
        parts["downsample"] = _merging(widths[0], widths[1], stride=2 if number < HALVINGS else 1)
    return nn.Sequential(parts)


def _stem(width: int) -> nn.Sequential:
    """A quarter of the resolution, by two convolutions."""
    half = width // 2
    return nn.Sequential(
        _convolution(3, half, side=3, stride=2), nn.GELU(), _convolution(half, width, side=3, stride=2)
    )


def _merging(width: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=_convolution(width, after),
            act1=nn.GELU(),
            conv2=_convolution(after, after, side=3, stride=stride, groups=after),
            act2=nn.GELU(),
            conv3=_convolution(after, after),
        )
    )


def _convolution(width: int, after: int, side: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation."""
    convolution = nn.Conv2d(width, after, side, stride, padding=side // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=convolution, bn=nn.BatchNorm2d(after)))
