"""Checkpoints with the names and shapes of the published ones, filled with random numbers.

Names and shapes are those of torchvision 0.15 to 0.29, mmdetection 2.14 (ResNet, FPN, FCOS3D's head) and PanoOcc's
public configuration for Occ3D; sizes are arguments, so that small ones can be made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    """A batch norm."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.num_batches_tracked": (), **{f"{name}.{kind}": (channels,) for kind in kinds}}


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    """A linear map with bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def conv(name: str, outputs: int, inputs: int, edge: int) -> Shapes:
    """A 2D convolution with bias."""
    return {f"{name}.weight": (outputs, inputs, edge, edge), f"{name}.bias": (outputs,)}


def resnet(prefix: str, width: int, depths: tuple[int, ...], deformable: tuple[int, ...] = ()) -> Shapes:
    """A ResNet of bottleneck blocks; deformable stages carry 27 channels of offsets and masks."""
    shapes: Shapes = {f"{prefix}conv1.weight": (width, 3, 7, 7), **norm(f"{prefix}bn1", width)}
    inputs = width
    for stage, depth in enumerate(depths, start=1):
        planes = width * 2 ** (stage - 1)
        for number in range(depth):
            block = f"{prefix}layer{stage}.{number}."
            shapes[f"{block}conv1.weight"] = (planes, inputs, 1, 1)
            shapes[f"{block}conv2.weight"] = (planes, planes, 3, 3)
            shapes[f"{block}conv3.weight"] = (4 * planes, planes, 1, 1)
            shapes |= norm(f"{block}bn1", planes) | norm(f"{block}bn2", planes) | norm(f"{block}bn3", 4 * planes)
            if stage in deformable:
                shapes |= conv(f"{block}conv2.conv_offset", 27, planes, 3)
            if number == 0:
                shapes[f"{block}downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                shapes |= norm(f"{block}downsample.1", 4 * planes)
            inputs = 4 * planes
    return shapes


def pyramid(prefix: str, inputs: list[int], channels: int, outputs: int) -> Shapes:
    """mmdetection's FPN: a lateral 1 x 1 per input, a 3 x 3 per output."""
    shapes: Shapes = {}
    for level, width in enumerate(inputs):
        shapes |= conv(f"{prefix}lateral_convs.{level}.conv", channels, width, 1)
    for level in range(outputs):
        shapes |= conv(f"{prefix}fpn_convs.{level}.conv", channels, channels, 3)
    return shapes


@dataclass(frozen=True)
class Size:
    """Sizes of a PanoOcc network; defaults are PanoOcc-Small for Occ3D (h along y, w along x)."""

    depths: tuple[int, ...] = (3, 4, 23, 3)
    width: int = 64
    channels: int = 256
    h: int = 50
    w: int = 50
    z: int = 16
    layers: int = 3
    heads: int = 8
    points: int = 8
    ffn: int = 512
    frames: int = 4
    up: tuple[int, ...] = (256, 32)


def panoocc(size: Size) -> Shapes:
    """The state dict of a PanoOcc checkpoint."""
    d, head = size.channels, "pts_bbox_head."
    transformer = f"{head}transformer."
    shapes = resnet("img_backbone.", size.width, size.depths, deformable=(3, 4))
    shapes |= pyramid("img_neck.", [4 * size.width * 2**stage for stage in range(4)], d, 5)
    shapes[f"{head}code_weights"] = (10,)
    shapes |= {
        f"{head}positional_encoding.{axis}_embed.weight": (count, d)
        for axis, count in (("row", size.h), ("col", size.w), ("z", size.z))
    }
    shapes |= {f"{transformer}level_embeds": (5, d), f"{transformer}cams_embeds": (6, d)}
    shapes |= linear(f"{transformer}can_bus_mlp.0", d // 2, 18) | linear(f"{transformer}can_bus_mlp.2", d, d // 2)
    shapes |= {f"{transformer}can_bus_mlp.norm.{kind}": (d,) for kind in ("weight", "bias")}
    for number in range(size.layers):
        shapes |= panoocc_layer(f"{transformer}cam_encoder.layers.{number}.", size)
    shapes |= fusion(f"{transformer}temporal_encoder.temporal_block.0.", size)
    shapes |= decoder(f"{transformer}voxel_decoder.", size)
    for name, sizes in (("nn_layers.0.0", (128, 32)), ("nn_layers.2.0", (128, 128)), ("nn_layers.4", (32, 128))):
        shapes |= linear(f"{transformer}seg_decoder.mlp_decoder.{name}", *sizes)
    shapes |= linear(f"{transformer}seg_decoder.classifier", 18, 32)
    shapes |= linear(f"{transformer}decoder.layers.0.attentions.1.value_proj", d, d)  # and more of this kind
    shapes |= linear(f"{transformer}reference_points", 3, d)
    shapes[f"{head}bev_embedding.weight"] = (size.h * size.w * size.z, d)
    shapes[f"{head}query_embedding.weight"] = (900, 2 * d)
    return shapes | linear(f"{head}cls_branches.0.0", d, d) | linear(f"{head}reg_branches.0.0", d, d)


def panoocc_layer(prefix: str, size: Size) -> Shapes:
    """One layer: attention over two queues, attention over 5 scales, feed-forward, three norms."""
    d, own, cross = size.channels, f"{prefix}attentions.0.", f"{prefix}attentions.1.deformable_attention."
    samples = size.heads * size.points
    shapes = linear(f"{own}sampling_offsets", 2 * samples * 2, 2 * d)
    shapes |= linear(f"{own}attention_weights", 2 * samples, 2 * d)
    shapes |= linear(f"{own}value_proj", d, d) | linear(f"{own}output_proj", d, d)
    shapes |= linear(f"{cross}sampling_offsets", 5 * samples * 2, d)
    shapes |= linear(f"{cross}attention_weights", 5 * samples, d)
    shapes |= linear(f"{cross}value_proj", d, d) | linear(f"{prefix}attentions.1.output_proj", d, d)
    shapes |= linear(f"{prefix}ffns.0.layers.0.0", size.ffn, d) | linear(f"{prefix}ffns.0.layers.1", d, size.ffn)
    return shapes | {f"{prefix}norms.{number}.{kind}": (d,) for number in range(3) for kind in ("weight", "bias")}


def fusion(prefix: str, size: Size) -> Shapes:
    """The bottleneck of 3D convolutions over all frames; kernels (z, y, x)."""
    d, inputs = size.channels, size.channels * size.frames
    shapes: Shapes = {
        f"{prefix}conv1.weight": (d, inputs, 1, 1, 1),
        f"{prefix}conv2.weight": (d, d, 3, 3, 3),
        f"{prefix}conv3.weight": (d, d, 1, 1, 1),
        f"{prefix}downsample.0.weight": (d, inputs, 1, 1, 1),
    }
    for name in ("bn1", "bn2", "bn3", "downsample.1"):
        shapes |= norm(f"{prefix}{name}", d)
    return shapes


def decoder(prefix: str, size: Size) -> Shapes:
    """Transposed convolutions with kernels (z, y, x) = (1, 4, 4), each with norm and ReLU; a head beside them."""
    shapes: Shapes = {}
    inputs = size.channels
    for stage, outputs in enumerate(size.up):
        shapes[f"{prefix}upsample.{3 * stage}.weight"] = (inputs, outputs, 1, 4, 4)
        shapes[f"{prefix}upsample.{3 * stage}.bias"] = (outputs,)
        shapes |= norm(f"{prefix}upsample.{3 * stage + 1}", outputs)
        inputs = outputs
    return shapes | {f"{prefix}semantic_det.0.weight": (1, inputs, 3, 3, 3), f"{prefix}semantic_det.0.bias": (1,)}


def fcos3d(width: int, depths: tuple[int, ...], channels: int, prefix: str = "") -> Shapes:
    """FCOS3D R101-DCN: pyramid from stage 2 on with two extra levels, a detection head."""
    shapes = resnet(f"{prefix}backbone.", width, depths, deformable=(3, 4))
    shapes |= pyramid(f"{prefix}neck.", [4 * width * 2**stage for stage in (1, 2, 3)], channels, 5)
    return shapes | conv("bbox_head.conv_centerness", 1, channels, 3) | {"bbox_head.scales.0.0.scale": ()}


def numbers(shapes: Shapes) -> dict[str, Tensor]:
    """Random tensors, different in each place and the same in each run; variances are positive."""
    tensors = {}
    for name, shape in shapes.items():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        values = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        tensors[name] = values.abs() + 0.5 if name.endswith("running_var") else values
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
    return tensors
