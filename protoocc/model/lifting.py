"""What the images show at the places of fine cells: the start of the voxel queries, and their detail at the end.

A low-resolution query spans metres: looked up at its centre alone, a pole or a person is missed. Lifting projects the
centres of the fine cells that make up the queries, and reads the image features there. Where a head tells the depth of
image cells, it also reads how probable it is that the surface lies in the cell, in front of it or behind it, so that
the cells along one ray differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model.config import ProtoOccConfig
from protoocc.model.projection import HitQueries, query_centers
from protoocc.pixels import DepthBins


class Lifting(nn.Module):
    """Image features at the centres of cells, means over the cameras that see them, and how they start the queries."""

    cells_ego: Tensor

    def __init__(self, config: ProtoOccConfig) -> None:
        """Cells are ``config.lifted_cells`` of every query.

        Raises:
            ValueError: the network lifts nothing.
        """
        super().__init__()
        if config.lifted_cells is None:
            raise ValueError("lifted_cells is None: this network lifts nothing")
        self.parts, self.shape = config.lifted_cells, config.lifted_shape
        edges = zip(config.grid.minimum_m, config.grid.maximum_m, self.shape, strict=True)
        self.reach_m = max((high - low) / count for low, high, count in edges) / 2
        self.bins = DepthBins(*config.depth_range_m, config.depth_bins)
        d = config.channels
        self.by_depth = nn.Linear(3, 2 * d) if config.pixel_depth else None
        self.gather = nn.Linear(d * self.parts[0] * self.parts[1] * self.parts[2], d)
        self.norm = nn.LayerNorm(d)
        centers = query_centers(config.grid, self.shape).flatten(0, 2)
        self.register_buffer("cells_ego", centers, persistent=False)

    def forward(
        self,
        features: Sequence[Float[Tensor, "cameras d _ _"]],
        hits: HitQueries,
        samples: int,
        depth: Float[Tensor, "cameras bins _ _"] | None = None,
    ) -> Float[Tensor, "B X Y Z d"]:
        """Features of every cell; zero where no camera sees it.

        Args:
            features: one map per scale of all B*V cameras; the scales are summed.
            hits: of the cells, see `projection.find_hits`.
            samples: B.
            depth: logits of the bins of depth of image cells.
        """
        read = read_images(features, hits)
        if depth is not None and self.by_depth is not None:
            surface = surface_shares(depth.float().softmax(1), hits, self.bins, [self.reach_m]).to(read.dtype)
            gain, shift = self.by_depth(surface).chunk(2, dim=-1)
            read = read * (1.0 + gain) + shift
        cells = mean_of_cameras(read, hits, samples * len(self.cells_ego))
        return cells.view(samples, *self.shape, -1)

    def start(self, cells: Float[Tensor, "B X Y Z d"]) -> Float[Tensor, "B h w z d"]:
        """What its cells add to the start of each query."""
        x, y, z = self.parts
        split = cells.unflatten(1, (-1, x)).unflatten(3, (-1, y)).unflatten(5, (-1, z))
        started: Tensor = self.norm(self.gather(split.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)))
        return started

    def spread(self, queries: Float[Tensor, "B h w z d"]) -> Float[Tensor, "B X Y Z d"]:
        """The queries, each at all of its cells."""
        for axis, part in enumerate(self.parts, start=1):
            queries = queries.repeat_interleave(part, dim=axis)
        return queries


def surface_shares(
    depth: Float[Tensor, "cameras bins _ _"], hits: HitQueries, bins: DepthBins, reaches_m: Sequence[float]
) -> Float[Tensor, "n shares"]:
    """Probability that the surface lies before, in and behind the place of each hit, along the ray of its camera.

    Args:
        depth: probabilities of the bins of depth of image cells.
        hits: of points with one anchor each.
        bins: of the depth.
        reaches_m: what lies so much nearer or farther than a point counts as in it, metres.

    Returns:
        Before, in and behind for the first reach, then for the next one: 3 for each, n in all.
    """
    before = functional.pad(depth.cumsum(1), (0, 0, 0, 0, 1, 0))
    places, depths = hits.reference[:, 0].split(hits.counts), hits.depth_m[:, 0].split(hits.counts)
    found = []
    for camera, (place, depth_m) in enumerate(zip(places, depths, strict=True)):
        edges = torch.stack([depth_m + side * reach for reach in reaches_m for side in (-1, 1)])
        shares = _read_volume(before[camera], place, bins.place(edges.clamp_min(bins.nearest_m)) / bins.count)
        near, far = shares[0::2], shares[1::2]
        found.append(torch.stack([near, far - near, 1.0 - far], dim=1).flatten(0, 1).mT)
    return torch.cat(found)


def read_images(features: Sequence[Float[Tensor, "cameras d _ _"]], hits: HitQueries) -> Float[Tensor, "n d"]:
    """Bilinear samples of the features of its camera where each hit lands, summed over the scales."""
    places = hits.reference[:, 0].split(hits.counts)
    return torch.cat([_read([scale[camera] for scale in features], place) for camera, place in enumerate(places)])


def mean_of_cameras(values: Float[Tensor, "n d"], hits: HitQueries, rows: int) -> Float[Tensor, "rows d"]:
    """Mean of the values of each point over the cameras that see it; zero where none does."""
    summed = values.new_zeros(rows, values.shape[1]).index_add(0, hits.row, values)
    counts = torch.bincount(hits.row, minlength=rows).clamp_min(1)
    return summed / counts[:, None]


def _read(scales: Sequence[Float[Tensor, "d _ _"]], place: Float[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
    grid = (place * 2.0 - 1.0)[None, None]
    values = [
        functional.grid_sample(scale[None], grid.to(scale.dtype), padding_mode="border", align_corners=False)[0, :, 0]
        for scale in scales
    ]
    return torch.stack(values).sum(0).mT


def _read_volume(
    volume: Float[Tensor, "edges h w"], place: Float[Tensor, "n 2"], height: Float[Tensor, "k n"]
) -> Float[Tensor, "k n"]:
    """Trilinear samples at places (u, v) in shares of the image and heights 0..1 from the first edge to the last."""
    edges = len(volume)
    along = (height.clamp(0.0, 1.0) * (edges - 1) + 0.5) / edges
    grid = torch.cat([place.expand(len(along), -1, -1), along[..., None]], dim=-1) * 2.0 - 1.0
    sampled = functional.grid_sample(
        volume[None, None], grid[None, :, None], padding_mode="border", align_corners=False
    )
    return sampled[0, 0, :, 0]
