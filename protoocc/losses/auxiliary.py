"""Losses of single pixels beside the occupancy loss, from measured depth or, without it, from the labels."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from protoocc.batch import Batch
from protoocc.losses.first_voxel import first_voxels
from protoocc.losses.pixels import cell_cross_entropy, class_counts, depth_counts, share_loss
from protoocc.pixels import DepthShares, PixelOutput
from schemas.errors import DataError

Targets = tuple[UInt8[Tensor, "V H W"], Float[Tensor, "V H W"]]
"""Class (unknown from the number of classes on) and depth in metres (0 unknown) of the pixels of a sample's cameras."""


def pixel_losses(pixels: PixelOutput, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Cross entropy of what the heads say, ``pixels`` for classes and ``depth``, each a mean over samples.

    Depth of a network with both kinds of depth is the sum of both. Targets are the points of the shards or, where they
    hold none, the first occupied voxel along the ray of each cell.

    Args:
        pixels: of the network, n = B*V.
        batch: with measured depth or labels.

    Raises:
        DataError: it has neither.
    """
    samples = [_sample_losses(pixels, batch, index) for index in range(len(batch.tokens))]
    return {name: torch.stack([sample[name] for sample in samples]).mean() for name in samples[0]}


def _sample_losses(pixels: PixelOutput, batch: Batch, index: int) -> dict[str, Float[Tensor, ""]]:
    cameras = batch.images.shape[1]
    rows = slice(index * cameras, (index + 1) * cameras)
    losses: dict[str, Float[Tensor, ""]] = {}
    logits = pixels.logits
    if logits is not None:
        classes, depth_m = _targets(pixels, batch, index, logits.stride)
        if logits.classes is not None:
            cells = logits.classes[rows]
            grid = (cells.shape[-2], cells.shape[-1])
            counts = class_counts(classes, grid, logits.stride, cells.shape[1])
            losses["pixels"] = cell_cross_entropy(cells, counts)
        if logits.depth is not None:
            cells = logits.depth[rows]
            grid = (cells.shape[-2], cells.shape[-1])
            losses["depth"] = cell_cross_entropy(cells, depth_counts(depth_m, grid, logits.stride, pixels.bins))
    if pixels.depth is not None:
        _, depth_m = _targets(pixels, batch, index, pixels.depth.stride)
        loss = _share_loss(pixels.depth, rows, depth_m)
        losses["depth"] = losses["depth"] + loss if "depth" in losses else loss
    return losses


def _share_loss(depth: DepthShares, rows: slice, depth_m: Float[Tensor, "V H W"]) -> Float[Tensor, ""]:
    """Cross entropy of the groups in which the depths lie; depths outside the bins do not count."""
    bins = depth.bins
    inside = torch.where((depth_m >= bins.nearest_m) & (depth_m < bins.farthest_m), depth_m, 0.0)
    shares = depth.shares[rows].float()
    counts = depth_counts(inside, (shares.shape[-2], shares.shape[-1]), depth.stride, bins)
    return share_loss(shares.clamp_min(torch.finfo(shares.dtype).tiny).log(), counts)


@torch.no_grad()
def _targets(pixels: PixelOutput, batch: Batch, index: int, stride: int) -> Targets:
    if batch.depth_m is not None and batch.pixel_classes is not None:
        return batch.pixel_classes[index], batch.depth_m[index]
    if batch.semantics is None:
        raise DataError(
            f"samples {batch.tokens} have neither measured depth nor labels; pack with `protoocc pack --depth`"
        )
    return first_voxels(pixels, batch, index, stride)
