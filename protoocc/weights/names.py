"""Where a published tensor goes: names of the backbone and the pyramid, and the table of all formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

RESNET, PYRAMID = "image_features.resnet.", "image_features.pyramid."

Axes = Callable[[Tensor], Tensor]
"""Turns the axes of a published tensor into the network's."""


@dataclass(frozen=True)
class Place:
    """Where one tensor of a file belongs.

    Attributes:
        name: in the network; None where the network has nothing like it.
        tensor: in the network's axes.
        reason: why it has no place.
    """

    name: str | None
    tensor: Tensor
    reason: str = ""


def backbone_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What stands before ``conv1.weight`` in a file: nothing in torchvision's, ``(img_)backbone.`` in mmdetection's."""
    prefixes = ("img_backbone.", "backbone.", RESNET)
    return next((prefix for prefix in prefixes if f"{prefix}conv1.weight" in tensors), "")


def place_backbone(name: str, tensor: Tensor, prefix: str) -> Place | None:
    """Place of a tensor of the residual network, whose names all formats share; None for other tensors."""
    if not name.startswith(prefix):
        return None
    inner = name[len(prefix) :]
    if inner.startswith("fc."):
        return Place(None, tensor, "the network has no ImageNet classifier")
    return Place(RESNET + inner, tensor) if re.match(r"(conv1|bn1|layer[1-4])\.", inner) else None


def place_pyramid(
    name: str, tensor: Tensor, tensors: Mapping[str, Tensor], *, prefix: str, strides: tuple[int, ...]
) -> Place | None:
    """Place of a tensor of mmdetection's FPN, level by stride; None for other tensors.

    Level i of the file has 2^i times the stride of its first level, which the input of the first lateral convolution
    tells: stage 1 (stride 4) has as many channels as ``layer1`` puts out, each next stage twice as many.
    """
    neck = prefix.replace("backbone", "neck")
    found = re.fullmatch(re.escape(neck) + r"(lateral|fpn)_convs\.(\d+)\.conv\.(weight|bias)", name)
    first = tensors.get(f"{neck}lateral_convs.0.conv.weight")
    stage = tensors.get(f"{prefix}layer1.0.conv3.weight")
    if found is None or first is None or stage is None:
        return None
    stride = 4 * first.shape[1] // stage.shape[0] * 2 ** int(found[2])
    if stride not in strides:
        return Place(None, tensor, f"the network has no scale of stride {stride}")
    if stride == 64:
        return Place(f"image_features.stride_64.{found[3]}", tensor)
    blocks = "inner_blocks" if found[1] == "lateral" else "layer_blocks"
    return Place(f"{PYRAMID}{blocks}.{strides.index(stride)}.0.{found[3]}", tensor)
