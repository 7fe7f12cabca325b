"""VoxFormer: proposed voxel queries look at the images, mask tokens stand for all others, then all share what they saw.

With the switches of `PartsConfig` the paper's parts join: prototypes before each cross attention, pixel features for
the mask loss, and several perspectives in place of the trilinear header.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from protoocc.batch import Batch
from protoocc.model.decoder import Decoder
from protoocc.model.encoder import CameraViews, MappingTrace, place_waves
from protoocc.model.grouping import GroupingNetwork, normalised_cells
from protoocc.model.pixel_features import PixelFeatures
from protoocc.model.projection import HitQueries, among, query_centers
from protoocc.model.pseudo_lidar import depth_cells
from protoocc.model.voxformer.config import VoxFormerConfig
from protoocc.model.voxformer.fold import FoldedPositions, fold, unfold
from protoocc.model.voxformer.header import TrilinearHeader
from protoocc.model.voxformer.layers import MaskedQueries, SeedLayer, SpreadLayer
from protoocc.model.voxformer.proposer import ProposalNetwork, ProposalsConfig, Proposer
from protoocc.network import NetworkConfig, NetworkOutput
from protoocc.pixels import PixelOutput

__all__ = ["ProposalNetwork", "ProposalsConfig", "VoxFormer", "VoxFormerConfig"]


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Queries that have looked at the images, before they share it.

    Attributes:
        queries: seeds, and mask tokens for queries that nothing proposed.
        trace: what equation (2) needs; None without prototype mapping.
        hits: of the seeds.
        pixel_grid: (h', w') of the clustering map.
        pixels: what training tells the image features; None without heads.
    """

    queries: Float[Tensor, "B h w z d"]
    trace: MappingTrace | None
    hits: HitQueries
    pixel_grid: tuple[int, int]
    pixels: PixelOutput | None = None


class VoxFormer(GroupingNetwork):
    """Image features -> seeds at proposed voxels -> all voxel queries -> occupancy."""

    Config: ClassVar[type[NetworkConfig]] = VoxFormerConfig
    voxels_at_once: int = 160_000
    """Voxels whose features are made in one go: what bounds the memory of a prediction."""
    config: VoxFormerConfig
    centers_ego: Tensor

    def __init__(self, config: VoxFormerConfig) -> None:
        """Builds all parts with random weights; a network that proposes keeps those that it is given."""
        super().__init__(config)
        self.config = config
        d = config.channels
        start = place_waves(config.query_shape, d) + torch.randn(*config.query_shape, d) * 0.1
        self.voxel_queries = MaskedQueries(start)
        self.positions = FoldedPositions(config.query_shape, d)
        self.scale_embedding = nn.Parameter(torch.randn(len(config.strides), d) * 0.1)
        self.seed_layers = nn.ModuleList([SeedLayer(config) for _ in range(config.cross_layers)])
        self.spread_layers = nn.ModuleList([SpreadLayer(config) for _ in range(config.self_layers)])
        self.pixel_features = PixelFeatures() if config.prototype_optimisation else None
        self.decoder = Decoder(config) if config.multi_perspective else None
        self.header = None if config.multi_perspective else TrilinearHeader(config)
        self.proposer: Proposer | None = None
        if config.proposals == "learned":
            self.proposer = Proposer(config.grid, config.proposal_width).requires_grad_(False).eval()
        centers = query_centers(config.grid, config.query_shape).flatten(0, 2)
        self.register_buffer("centers_ego", centers, persistent=False)

    def train(self, mode: bool = True) -> VoxFormer:
        """Training mode for all but frozen image features and the network that proposes."""
        super().train(mode)
        if self.proposer is not None:
            self.proposer.eval()
        return self

    def trained_parts(self) -> dict[str, str]:
        """The network that proposes comes from a run of its own."""
        run = self.config.proposal_run
        return {} if self.proposer is None or run is None else {"proposer.": run}

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of all views and, for the mask loss, X of equation (2) on the clustering grid.

        Args:
            batch: images, calibration and, unless all queries are proposed, depth; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all.

        Raises:
            DataError: the network reads depth and the batch has none.
        """
        seeds = self.seed(batch)
        if voxels is None:
            total = len(batch.tokens) * math.prod(self.config.grid.shape)
            voxels = torch.arange(total, device=batch.images.device)
        logits = self.decode(self.spread(seeds.queries), voxels, batch.seeds)
        cells, seen = self.read_cells(batch, self.pixel_features, seeds.trace, seeds.hits, seeds.pixel_grid)
        return NetworkOutput(logits, voxels, cells, seen, self.config.clustering_stride, seeds.pixels)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """Sample by sample and without pixel features, which saves memory."""
        queries = self.spread(self.seed(batch).queries)
        every = torch.arange(math.prod(self.config.grid.shape), device=queries.device)
        return torch.cat([self.decode(sample[None], every)[0].argmax(-1).to(torch.uint8) for sample in queries])

    def propose(self, batch: Batch) -> Bool[Tensor, "B h w z"]:
        """Queries that look at the images.

        Raises:
            DataError: the network reads depth and the batch has none.
        """
        shape, samples = self.config.query_shape, len(batch.tokens)
        if self.proposer is not None:
            return self.proposer.propose(batch, shape, self.config.proposal_threshold)
        if self.config.proposals == "depth":
            return depth_cells(batch, self.config.grid, shape)
        return torch.ones(samples, *shape, dtype=torch.bool, device=batch.images.device)

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """The centre of each query."""
        return self.centers_ego[:, None]

    def seed(self, batch: Batch) -> Seeds:
        """Proposed queries look at the images, layer after layer; mask tokens stand for the others."""
        features = self.image_features(batch.images.flatten(0, 1))
        size = (batch.images.shape[-2], batch.images.shape[-1])
        every = self.find_hits(size, batch.image_from_camera, batch.camera_from_ego)
        proposed = self.propose(batch).flatten().nonzero().squeeze(1)
        samples, queries = len(batch.tokens), len(self.centers_ego)
        hits = among(every, proposed, samples * queries)
        prototypes = self.group(self.clustered(features)) if self.config.prototype_mapping else None
        embedded = zip(features, self.scale_embedding, strict=True)
        scales = [normalised_cells(scale) + embedding[:, None, None] for scale, embedding in embedded]
        views = CameraViews(scales, prototypes, hits, None)
        positions = self.positions().flatten(0, 1)
        rows, trace = self.voxel_queries.table.flatten(0, 2).index_select(0, proposed % queries), None
        for layer in self.seed_layers:
            run = partial(layer, views=views)
            rows, trace = self._run(run, rows, positions)
        volume = self.voxel_queries.complete(rows, proposed, samples)
        pixels = self.pixel_output(self.read_pixels(features)) if self.teaches_pixels else None
        return Seeds(volume, trace, hits, self.clustering_grid(features), pixels)

    def spread(self, queries: Float[Tensor, "B h w z d"]) -> Float[Tensor, "B h w z d"]:
        """All queries look at each other on their folded image."""
        image, positions = fold(queries), self.positions()
        if self.config.placed_queries:
            image = image + positions
        for layer in self.spread_layers:
            image = self._run(layer, image, positions)
        return unfold(image, self.config.query_shape)

    def decode(
        self, queries: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"], seeds: list[int] | None = None
    ) -> Float[Tensor, "views n L"]:
        """Class logits of chosen voxels; with several perspectives in every view."""
        if self.decoder is not None:
            logits: Tensor = self.decoder(queries, voxels, seeds)
            return logits
        if self.header is None:
            raise ValueError("a network without several perspectives has a header")
        return self.header(queries, voxels, self.voxels_at_once)[None]

    def _run(self, layer, *tensors: Tensor):  # type: ignore[no-untyped-def]
        """A layer's result, whose activations are computed again in the backward pass where the settings say so."""
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *tensors, use_reentrant=False)
        return layer(*tensors)
