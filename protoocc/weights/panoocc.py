"""PanoOcc's head: its names, and its axes turned into ours.

PanoOcc lays voxels out as (h, w, z) with h along y and w along x of the ego frame; ours are (x, y, z). So its query n
is the voxel (x, y, z) with n = (y * w + x) * z_count + z, its row embedding runs along y, its column embedding along x,
and the kernels of its 3D convolutions run along (z, y, x). Within a slice its attention offsets are (along w, along h)
= (x, y); ours are (along the second axis, along the first) = (y, x). Its frames go from the oldest to the present one,
ours from the present one to the oldest. Heads, queues (earlier, present), scales and points have the same order.

The weights are a start, not a copy of PanoOcc. It adds camera embeddings and CAN bus signals and classifies with other
layers; and its self attention gives a kernel that knows (h, w) a shape of three edges, so that by its code only the
first h * w of the h * w * z voxels are read, where ours reads the slice of each query.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from protoocc.weights.names import Axes, Place
from schemas.errors import CheckpointError
from schemas.geometry import VoxelGrid

_HEAD, _LAYER = r"pts_bbox_head\.", r"pts_bbox_head\.transformer\.cam_encoder\.layers\.(\d+)\."
_TRANSFORMER = r"pts_bbox_head\.transformer\."
_BLOCK = _TRANSFORMER + r"temporal_encoder\.temporal_block\.0\."


def same(tensor: Tensor) -> Tensor:
    """Leaves the axes as they are."""
    return tensor


def swap_offsets(tensor: Tensor) -> Tensor:
    """Rows (..., 2) of an offset map: (x, y) to (y, x)."""
    return tensor.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def swap_kernel(tensor: Tensor) -> Tensor:
    """Kernel (outputs, inputs, z, y, x) to (outputs, inputs, x, y, z)."""
    return tensor.permute(0, 1, 4, 3, 2)


def swap_frames(tensor: Tensor) -> Tensor:
    """Kernel whose inputs are frames of as many channels as it puts out: the present frame first."""
    return swap_kernel(tensor).unflatten(1, (-1, tensor.shape[0])).flip(1).flatten(1, 2)


_RULES: Final[tuple[tuple[str, str, Axes], ...]] = (
    (_LAYER + r"attentions\.0\.sampling_offsets\.", r"encoder.layers.\1.self_attention.offsets.", swap_offsets),
    (_LAYER + r"attentions\.0\.attention_weights\.", r"encoder.layers.\1.self_attention.weights.", same),
    (_LAYER + r"attentions\.0\.value_proj\.", r"encoder.layers.\1.self_attention.value.", same),
    (_LAYER + r"attentions\.0\.output_proj\.", r"encoder.layers.\1.self_attention.combine.", same),
    (
        _LAYER + r"attentions\.1\.deformable_attention\.sampling_offsets\.",
        r"encoder.layers.\1.cross_attention.offsets.",
        same,
    ),
    (
        _LAYER + r"attentions\.1\.deformable_attention\.attention_weights\.",
        r"encoder.layers.\1.cross_attention.weights.",
        same,
    ),
    (_LAYER + r"attentions\.1\.deformable_attention\.value_proj\.", r"encoder.layers.\1.cross_attention.value.", same),
    (_LAYER + r"attentions\.1\.output_proj\.", r"encoder.layers.\1.cross_attention.combine.", same),
    (_LAYER + r"ffns\.0\.layers\.0\.0\.", r"encoder.layers.\1.feed_forward.0.", same),
    (_LAYER + r"ffns\.0\.layers\.1\.", r"encoder.layers.\1.feed_forward.2.", same),
    (_LAYER + r"norms\.", r"encoder.layers.\1.norms.", same),
    (_TRANSFORMER + r"level_embeds$", "encoder.scale_embedding", same),
    (_HEAD + r"positional_encoding\.col_embed\.weight$", "voxel_queries.axes.0", same),
    (_HEAD + r"positional_encoding\.row_embed\.weight$", "voxel_queries.axes.1", same),
    (_HEAD + r"positional_encoding\.z_embed\.weight$", "voxel_queries.axes.2", same),
    (_BLOCK + r"conv1\.", "temporal_fusion.reduce.0.", swap_frames),
    (_BLOCK + r"conv2\.", "temporal_fusion.mix.0.", swap_kernel),
    (_BLOCK + r"conv3\.", "temporal_fusion.expand.0.", swap_kernel),
    (_BLOCK + r"downsample\.0\.", "temporal_fusion.shortcut.0.", swap_frames),
    (_BLOCK + r"bn1\.", "temporal_fusion.reduce.1.", same),
    (_BLOCK + r"bn2\.", "temporal_fusion.mix.1.", same),
    (_BLOCK + r"bn3\.", "temporal_fusion.expand.1.", same),
    (_BLOCK + r"downsample\.1\.", "temporal_fusion.shortcut.1.", same),
)
"""Pattern at the start of a published name, what stands there in ours, and how its axes turn."""

_ABSENT: Final[tuple[tuple[str, str], ...]] = (
    (_TRANSFORMER + r"cams_embeds$", "cameras carry no embedding: they differ by their calibration alone"),
    (_TRANSFORMER + r"can_bus_mlp\.", "the network reads no CAN bus signals"),
    (_TRANSFORMER + r"(decoder|reference_points)\.", "the network detects no boxes"),
    (_HEAD + r"(query_embedding\.|cls_branches\.|reg_branches\.|code_weights)", "the network detects no boxes"),
    (_TRANSFORMER + r"voxel_decoder\.semantic_det\.", "the network has no second head for occupied voxels"),
    (_TRANSFORMER + r"seg_decoder\.", "the label classifier has other layers"),
)


def place_head(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Place | None:
    """Place of a tensor of PanoOcc's head; None for names that it does not have."""
    if name == "pts_bbox_head.bev_embedding.weight":
        return _place_queries(tensor, tensors)
    upsample = re.match(_TRANSFORMER + r"voxel_decoder\.upsample\.(\d+)\.(.+)", name)
    if upsample is not None:
        return _place_upsample(int(upsample[1]), upsample[2], tensor)
    for pattern, ours, axes in _RULES:
        found = re.match(pattern, name)
        if found is not None:
            return _turned(found.expand(ours) + name[found.end() :], tensor, axes)
    for pattern, reason in _ABSENT:
        if re.match(pattern, name) is not None:
            return Place(None, tensor, reason)
    return None


def _turned(name: str, tensor: Tensor, axes: Axes) -> Place:
    try:
        return Place(name, axes(tensor))
    except (RuntimeError, IndexError):
        return Place(None, tensor, f"{tuple(tensor.shape)} does not have the axes of {name}")


def _place_queries(table: Tensor, tensors: Mapping[str, Tensor]) -> Place:
    """The query table (h * w * z, d) with h along y, as (x, y, z, d); its edges are those of the axis embeddings."""
    embeddings = [tensors.get(f"pts_bbox_head.positional_encoding.{axis}_embed.weight") for axis in ("row", "col", "z")]
    edges = [len(embedding) for embedding in embeddings if embedding is not None]
    if len(edges) != 3 or edges[0] * edges[1] * edges[2] != len(table):
        return Place(None, table, f"its {len(table)} rows are not (h, w, z) of the position embeddings, {edges}")
    return Place("voxel_queries.table", table.unflatten(0, edges).transpose(0, 1))


def _place_upsample(number: int, leaf: str, tensor: Tensor) -> Place:
    """Stage s of the decoder is three entries: 3s the transposed convolution, 3s + 1 its norm, 3s + 2 a ReLU."""
    stage, kind = divmod(number, 3)
    if kind == 0:
        return _turned(f"decoder.upsample.stages.{stage}.{leaf}", tensor, swap_kernel if leaf == "weight" else same)
    return Place(f"decoder.upsample.norms.{stage}.{leaf}", tensor)


def check_extent(file: str, settings: str, grid: VoxelGrid) -> None:
    """Compares the space that a checkpoint was trained on, where it tells, with the network's.

    Raises:
        CheckpointError: they differ, as for the panoptic checkpoints, which use the LiDAR frame and 51.2 m.
    """
    found = re.search(r"point_cloud_range\s*=\s*\[([^\]]*)\]", settings)
    if found is None:
        return
    extent = tuple(float(number) for number in found[1].split(","))
    expected = (*grid.minimum_m, *grid.maximum_m)
    if len(extent) != 6 or any(abs(a - b) > 1e-3 for a, b in zip(extent, expected, strict=True)):
        raise CheckpointError(
            f"{file} was trained on the space {extent} m (x, y, z from and to), the network's grid spans {expected}; "
            "take a checkpoint of PanoOcc's Occ3D configurations"
        )
