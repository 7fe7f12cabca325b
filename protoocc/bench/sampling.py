"""Inputs for measuring deformable attention, and the padded way in which other networks compute it on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from protoocc.model.attention import start_offsets
from protoocc.model.config import ProtoOccConfig
from protoocc.model.projection import HitQueries

Sizes = list[tuple[int, int]]


@dataclass(frozen=True)
class Inputs:
    """What `deformable_attention` takes, and the gradient of its result."""

    value: Float[Tensor, "maps cells heads c"]
    sizes: Sizes
    locations: Float[Tensor, "n heads levels points 2"]
    weights: Float[Tensor, "n heads levels points"]
    counts: list[int]
    grad_out: Float[Tensor, "n heads c"]

    def part(self, maps: int, step: int) -> Inputs:
        """Every ``step``-th row of the first maps."""
        numbers = torch.arange(len(self.weights), device=self.weights.device).split(self.counts)[:maps]
        rows = torch.cat([part[::step] for part in numbers])
        return replace(
            self,
            value=self.value[:maps],
            locations=self.locations[rows],
            weights=self.weights[rows],
            grad_out=self.grad_out[rows],
            counts=[-(-count // step) for count in self.counts[:maps]],
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """On another device; only values and results are stored in ``dtype`` if that is a half precision."""
        real = dtype if dtype == torch.float64 else torch.float32
        return replace(
            self,
            value=self.value.to(device, dtype),
            locations=self.locations.to(device, real),
            weights=self.weights.to(device, real),
            grad_out=self.grad_out.to(device, dtype),
        )


Prepared = tuple[Inputs, Callable[[Tensor], Tensor]]
"""Inputs in the form that an implementation wants, and the way back from its result to the rows of the original."""


def image_inputs(config: ProtoOccConfig, hits: HitQueries, padded_size: tuple[int, int]) -> Inputs:
    """Cross attention of a rig's hit queries: offsets of an untrained layer plus noise of one cell, random weights.

    Args:
        config: heads, points, scales and channels.
        hits: hit queries of all cameras; their projections are the references.
        padded_size: (H, W) of the images, pixels.
    """
    sizes = [(-(-padded_size[0] // stride), -(-padded_size[1] // stride)) for stride in config.strides]
    return _around(config, sizes, hits.reference[:, :1].unsqueeze(1), (hits.counts, config.points))


def voxel_inputs(config: ProtoOccConfig) -> Inputs:
    """Self attention: each of the z slices is a map that all its h x w queries read, 2 x points around themselves."""
    height, width, depth = config.query_shape
    down, right = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    reference = torch.stack([right, down], dim=-1).view(-1, 1, 1, 2).repeat(depth, 1, 1, 1)
    counts = [height * width] * depth
    return _around(config, [(height, width)], reference, (counts, 2 * config.points))


def _around(
    config: ProtoOccConfig, sizes: Sizes, reference: Float[Tensor, "n 1 1 2"], rows: tuple[list[int], int]
) -> Inputs:
    """Points around a reference; ``rows`` are the rows of each map and the points per head and level."""
    counts, points = rows
    generator = torch.Generator().manual_seed(0)
    shape = (sum(counts), config.heads, len(sizes), points)
    cells = torch.tensor([[width, height] for height, width in sizes])[:, None]
    offsets = start_offsets(config.heads, config.points).repeat(1, points // config.points, 1)[:, None]
    noise = torch.randn(*shape, 2, generator=generator)
    scores = torch.randn(*shape, generator=generator)
    per_head = config.channels // config.heads
    maps, area = len(counts), sum(height * width for height, width in sizes)
    return Inputs(
        value=torch.randn(maps, area, config.heads, per_head, generator=generator),
        sizes=sizes,
        locations=reference[..., None, :] + (offsets + noise) / cells,
        weights=scores.flatten(2).softmax(-1).view(shape),
        counts=counts,
        grad_out=torch.randn(sum(counts), config.heads, per_head, generator=generator),
    )


def as_given(inputs: Inputs) -> Prepared:
    """For `deformable_attention`."""
    return inputs, lambda out: out


def padded(inputs: Inputs) -> Prepared:
    """All maps with as many rows as the fullest one; the added rows weigh nothing."""
    most, device = max(inputs.counts), inputs.value.device
    places = torch.cat([m * most + torch.arange(count, device=device) for m, count in enumerate(inputs.counts)])

    def spread(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(len(inputs.counts) * most, *tensor.shape[1:]).index_copy(0, places, tensor)

    more = replace(
        inputs,
        locations=spread(inputs.locations),
        weights=spread(inputs.weights),
        grad_out=spread(inputs.grad_out),
        counts=[most] * len(inputs.counts),
    )
    return more, lambda out: out[places]


def two_queues(inputs: Inputs) -> Prepared:
    """Self attention as others compute it: two copies of every map, each read at half of the points."""
    twice = replace(
        inputs,
        value=inputs.value.repeat(2, 1, 1, 1),
        locations=torch.cat(inputs.locations.chunk(2, dim=3)),
        weights=torch.cat(inputs.weights.chunk(2, dim=3)),
        grad_out=inputs.grad_out.repeat(2, 1, 1),
        counts=inputs.counts * 2,
    )
    return twice, lambda out: torch.stack(out.chunk(2)).sum(0)


def padded_attention(inputs: Inputs) -> Float[Tensor, "n heads c"]:
    """The way of the peers' CPU code: all maps have the same number of rows, so one grid_sample does all of a level.

    The samples of all levels are stacked, and the weighted sum comes last. It computes in float32, as theirs does.
    """
    maps, _, heads, channels = inputs.value.shape
    shape = (maps, max(inputs.counts))
    grids = (2.0 * inputs.locations - 1.0).unflatten(0, shape).transpose(1, 2).flatten(0, 1)
    shares = inputs.weights.unflatten(0, shape).transpose(1, 2).flatten(0, 1).flatten(2)
    samples = []
    levels = inputs.value.float().split([height * width for height, width in inputs.sizes], dim=1)
    for number, (level, size) in enumerate(zip(levels, inputs.sizes, strict=True)):
        plane = level.permute(0, 2, 3, 1).reshape(maps * heads, channels, *size)
        samples.append(functional.grid_sample(plane, grids[:, :, number], padding_mode="zeros", align_corners=False))
    summed = (torch.stack(samples, dim=-2).flatten(-2) * shares[:, None]).sum(-1)
    return summed.view(maps, heads, channels, -1).permute(0, 3, 1, 2).flatten(0, 1).to(inputs.value.dtype)


def padded_bytes(inputs: Inputs) -> int:
    """Memory of the padded way at its peak: the samples of all levels stacked, their gradient, and two products."""
    samples = len(inputs.counts) * max(inputs.counts) * inputs.weights[0].numel()
    return 4 * samples * inputs.value.shape[3] * 4
