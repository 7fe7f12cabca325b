"""Symphonies: instance queries carry what they see between the image and the scene, layer after layer.

With the switches of `PartsConfig` the paper's parts join: prototypes on the scene queries in view before proposed ones
look at the images, pixel features for the mask loss, and several perspectives in place of its own head.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from protoocc.batch import Batch
from protoocc.model.backbone import padded_size
from protoocc.model.decoder import Decoder
from protoocc.model.encoder import MappingTrace, place_waves
from protoocc.model.grouping import GroupingNetwork, normalised_cells
from protoocc.model.lifting import mean_of_cameras
from protoocc.model.pixel_features import PixelFeatures
from protoocc.model.projection import HitQueries, among, query_centers
from protoocc.model.prototypes import PrototypeMapping
from protoocc.model.pseudo_lidar import depth_cells
from protoocc.model.symphonies.config import SymphoniesConfig
from protoocc.model.symphonies.head import DilatedSum, OwnHead
from protoocc.model.symphonies.instances import Instances, instance_cells
from protoocc.model.symphonies.layers import Look, Places, SymphoniesLayer
from protoocc.model.symphonies.pixel_decoder import DecodedFeatures, points_at
from protoocc.model.symphonies.squeeze import SqueezedPositions, squeezed_place
from protoocc.network import NetworkConfig, NetworkOutput

__all__ = ["Symphonies", "SymphoniesConfig"]


@dataclasses.dataclass(frozen=True)
class Proposed:
    """Scene queries of which the proposed ones have looked at the images.

    Attributes:
        scene: all queries.
        trace: what equation (2) needs, of the proposed queries; None without prototype mapping.
        hits: of the proposed queries, counted among them.
    """

    scene: Float[Tensor, "B h w z d"]
    trace: MappingTrace | None
    hits: HitQueries


class Symphonies(GroupingNetwork):
    """Image features -> proposed scene queries -> rounds of instances and scene -> occupancy."""

    Config: ClassVar[type[NetworkConfig]] = SymphoniesConfig
    backbone_prefix: ClassVar[str | tuple[str, ...] | None] = (
        "image_features.resnet.",
        "image_features.project.",
        "image_features.layers.",
        "image_features.scale_embedding",
    )
    config: SymphoniesConfig
    centers_ego: Tensor

    def __init__(self, config: SymphoniesConfig) -> None:
        """Builds all parts with random weights."""
        super().__init__(config, DecodedFeatures(config) if config.pixel_decoder_layers else None)
        self.config = config
        d = config.channels
        start = place_waves(config.query_shape, d) + torch.randn(*config.query_shape, d) * 0.1
        self.scene_queries = nn.Parameter(start)
        self.positions = SqueezedPositions(config.query_shape, config.position_parts, d)
        self.instances = Instances(config.instances, d)
        self.mapping = PrototypeMapping(d) if config.prototype_mapping else None
        self.proposal = Look(config, levels=len(config.strides), points=config.points, hidden=config.ffn_channels)
        self.layers = nn.ModuleList(
            [SymphoniesLayer(config, is_last=number == config.layers - 1) for number in range(config.layers)]
        )
        self.dilated = DilatedSum(d, config.dilations)
        self.pixel_features = PixelFeatures() if config.prototype_optimisation else None
        self.head: OwnHead | Decoder = OwnHead(config) if config.head == "own" else Decoder(config)
        centers = query_centers(config.grid, config.query_shape).flatten(0, 2)
        self.register_buffer("centers_ego", centers, persistent=False)

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of all views, in training those of earlier layers and, for the mask loss, X of equation (2).

        Args:
            batch: images, calibration and, unless all queries are proposed, depth; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all.

        Raises:
            DataError: the network reads depth and the batch has none.
        """
        features = self.image_features(batch.images.flatten(0, 1))
        proposed, scenes = self.encode(batch, features)
        if voxels is None:
            total = len(batch.tokens) * math.prod(self.config.grid.shape)
            voxels = torch.arange(total, device=batch.images.device)
        logits = self.decode(scenes[-1], voxels, batch.seeds)
        keeps = self.training and self.config.auxiliary
        earlier = tuple(self.decode_once(scene, voxels) for scene in scenes[:-1]) if keeps else ()
        grid = self.clustering_grid(features)
        cells, seen = self.read_cells(batch, self.pixel_features, proposed.trace, proposed.hits, grid)
        pixels = self.pixel_output(self.read_pixels(features)) if self.teaches_pixels else None
        return NetworkOutput(logits, voxels, cells, seen, self.config.clustering_stride, pixels, earlier)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """Sample by sample and without pixel features, which saves memory."""
        _, scenes = self.encode(batch, self.image_features(batch.images.flatten(0, 1)))
        return torch.cat([self.decode_once(scene[None], None).argmax(-1).to(torch.uint8) for scene in scenes[-1]])

    def encode(
        self, batch: Batch, features: Sequence[Float[Tensor, "cameras d _ _"]]
    ) -> tuple[Proposed, list[Float[Tensor, "B h w z d"]]]:
        """Scene queries before the layers, and after each of them.

        Raises:
            DataError: the network reads depth and the batch has none.
        """
        size = (batch.images.shape[-2], batch.images.shape[-1])
        hits = self.find_hits(size, batch.image_from_camera, batch.camera_from_ego)
        scales, positions = [normalised_cells(scale) for scale in features], self.positions()
        proposed = self.propose(batch, hits, features, scales, positions)
        scene, places = proposed.scene, self._places(batch, hits, positions)
        instances = self.instances.table.repeat(batch.images.shape[1], 1).expand(len(batch.tokens), -1, -1)
        scenes = []
        for number, layer in enumerate(self.layers):
            if self.config.recompute and torch.is_grad_enabled():
                scene, instances = checkpoint(layer, scene, instances, scales, places, use_reentrant=False)
            else:
                scene, instances = layer(scene, instances, scales, places)
            scenes.append(self.dilated(scene) if number == len(self.layers) - 1 else scene)
        return proposed, scenes

    def propose(
        self,
        batch: Batch,
        hits: HitQueries,
        features: Sequence[Float[Tensor, "cameras d _ _"]],
        scales: Sequence[Float[Tensor, "cameras d _ _"]],
        positions: Float[Tensor, "h w z d"],
    ) -> Proposed:
        """The voxel proposal layer: queries at depth look at the images; prototypes reach all queries in view before.

        Args:
            batch: with depth, unless all queries are proposed.
            hits: of all queries.
            features: what is grouped into prototypes.
            scales: normalised features that are looked at.
            positions: of all queries.
        """
        samples, queries = len(batch.tokens), len(self.centers_ego)
        flat = self.scene_queries.flatten(0, 2).repeat(samples, 1)
        chosen = self.proposals(batch, hits).flatten()
        told = None
        if self.mapping is not None:
            before = flat.index_select(0, hits.row)
            prototypes = self.group(self.clustered(features))
            mapped, voxel_prototypes, similarity = self.mapping(prototypes, before, hits.reference[:, 0], hits.counts)
            told = voxel_prototypes, similarity[chosen.index_select(0, hits.row)]
            flat = flat + mean_of_cameras(mapped - before, hits, len(flat))
        rows = chosen.nonzero().squeeze(1)
        own = among(hits, rows, samples * queries)
        looking, where = flat.index_select(0, rows), positions.flatten(0, 2).index_select(0, rows % queries)
        looked, sampling = self.proposal(looking, where, scales, own)
        scene = flat.index_copy(0, rows, looked).view(samples, *self.config.query_shape, -1)
        trace = None if told is None else MappingTrace(*told, sampling)
        return Proposed(scene, trace, own)

    def proposals(self, batch: Batch, hits: HitQueries) -> Bool[Tensor, "B h w z"]:
        """Queries that look at the images: those in view, with depth in their cell if the network reads it.

        Raises:
            DataError: the network reads depth and the batch has none.
        """
        seen = torch.zeros(len(batch.tokens) * len(self.centers_ego), dtype=torch.bool, device=hits.row.device)
        seen[hits.row] = True
        seen = seen.view(len(batch.tokens), *self.config.query_shape)
        return seen & depth_cells(batch, self.config.grid, self.config.query_shape) if self.config.reads_depth else seen

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """The centre of each query."""
        return self.centers_ego[:, None]

    def decode(
        self, scene: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"], seeds: list[int] | None = None
    ) -> Float[Tensor, "views n L"]:
        """Class logits of chosen voxels; with several perspectives in every view."""
        if isinstance(self.head, Decoder):
            logits: Tensor = self.head(scene, voxels, seeds)
            return logits
        return self.decode_once(scene, voxels)[None]

    def decode_once(
        self, scene: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"] | None
    ) -> Float[Tensor, "n L"]:
        """Class logits of chosen voxels in the original view; None for all voxels."""
        head = self.head
        logits: Tensor = head.original(scene, voxels)[0] if isinstance(head, Decoder) else head(scene, voxels)
        return logits

    def _places(self, batch: Batch, hits: HitQueries, positions: Float[Tensor, "h w z d"]) -> Places:
        """Where queries in view and instances lie."""
        samples, cameras = batch.images.shape[:2]
        shape, queries = self.config.query_shape, len(self.centers_ego)
        fov = torch.unique(hits.row)
        counts = torch.bincount(torch.div(fov, queries, rounding_mode="floor"), minlength=samples).tolist()
        own = fov % queries
        index = torch.stack(torch.unravel_index(own, shape), dim=-1)
        image_size = (batch.images.shape[-2], batch.images.shape[-1])
        padded = padded_size(*image_size)
        places = self.instances.places()
        shrink = places.new_tensor([image_size[1] / padded[1], image_size[0] / padded[0]])
        cells = instance_cells(places, batch, self.config.grid, shape, reads_depth=self.config.reads_depth)
        return Places(
            fov,
            counts,
            positions.flatten(0, 2).index_select(0, own),
            points_at(squeezed_place(index, shape), counts),
            points_at((places * shrink).repeat(samples * cameras, 1), [len(places)] * (samples * cameras)),
            points_at(squeezed_place(cells.flatten(0, 1), shape), [cells.shape[1]] * samples),
        )
