"""Networks of voxel queries that read images: section 3.2 of the paper, and the part that its Table 3 measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from protoocc.batch import Batch
from protoocc.model.config import ProtoOccConfig
from protoocc.model.depth_attention import DEPTH_BINS, FARTHEST_M, NEAREST_M
from protoocc.model.detail import DetailMaps, VoxelDetail
from protoocc.model.encoder import CameraViews, Encoder, MappingTrace, VoxelQueries
from protoocc.model.grouping import GroupingNetwork, normalised_cells
from protoocc.model.lifting import Lifting
from protoocc.model.projection import HitQueries, query_anchors
from protoocc.model.refinement import Refinement
from protoocc.model.temporal import TemporalFusion, warp
from protoocc.pixels import DepthShares, PixelLogits, PixelOutput, UniformBins
from schemas.errors import DataError


@dataclass(frozen=True)
class Scene:
    """Encoded voxel queries of a batch and what equation (2) needs."""

    queries: Float[Tensor, "B h w z d"]
    trace: MappingTrace | None
    hits: HitQueries
    pixel_grid: tuple[int, int]
    maps: DetailMaps | None = None
    """What single voxels read from; None for a network whose voxels read nothing themselves."""
    pixels: PixelOutput | None = None
    """What training tells the image features; None outside training and without heads or depth."""


class QueryNetwork(GroupingNetwork):
    """Image features -> prototypes -> voxel queries, with what earlier frames saw."""

    config: ProtoOccConfig
    anchors_ego: Tensor

    def __init__(self, config: ProtoOccConfig) -> None:
        """Builds the view transformation with random weights."""
        super().__init__(config)
        self.config = config
        self.voxel_queries = VoxelQueries(config.query_shape, config.channels)
        self.lifting = Lifting(config) if config.lifted_cells is not None else None
        self.detail = VoxelDetail(config) if config.voxel_detail else None
        self.encoder = Encoder(config)
        self.refinement = (
            Refinement(config, config.refinement_channels) if config.refinement_channels is not None else None
        )
        self.temporal_fusion = (
            TemporalFusion(config.channels, config.frames)
            if config.frames > 1 and config.temporal == "fusion"
            else None
        )
        anchors = query_anchors(config.grid, config.query_shape, config.pillar_heights)
        self.register_buffer("anchors_ego", anchors, persistent=False)

    def encode_scene(self, batch: Batch) -> Scene:
        """From images to encoded voxel queries, with what earlier frames saw.

        Raises:
            DataError: the network reads several frames and the batch has another number of earlier ones.
        """
        earlier = self._earlier_queries(batch)
        before = earlier[0] if earlier and self.temporal_fusion is None else None
        scene = self._encode(batch.images, batch.image_from_camera, batch.camera_from_ego, before)
        if self.temporal_fusion is None:
            return scene
        return dataclasses.replace(scene, queries=self.temporal_fusion([scene.queries, *earlier]))

    @torch.no_grad()
    def _earlier_queries(self, batch: Batch) -> list[Float[Tensor, "B h w z d"]]:
        """Encoded queries of earlier frames in the present ego frame, the nearest first; no gradient, as in the hosts.

        With fusion each frame stands alone. With recurrence each reads the one before, and only the last remains.
        """
        count = self.config.frames - 1
        if count == 0:
            return []
        frames, motions = batch.past, batch.past_from_ego
        if motions is None or len(frames) != count:
            raise DataError(
                f"samples {batch.tokens} have {len(frames)} earlier frames, the network reads {count}; open the "
                f"shards with frames={self.config.frames} or set model.frames=1"
            )
        if self.temporal_fusion is not None:
            return [self._warp(self._encode(*frame).queries, motions[:, i]) for i, frame in enumerate(frames)]
        state: Tensor | None = None
        for time in reversed(range(count)):
            encoded = self._encode(*frames[time], state).queries
            newer = motions[:, time - 1] if time else torch.eye(4, dtype=motions.dtype, device=motions.device)
            state = self._warp(encoded, motions[:, time] @ torch.linalg.inv(newer))
        return [] if state is None else [state]

    def _warp(self, queries: Tensor, earlier_from_ego: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B h w z d"]:
        centers = self.anchors_ego.mean(3)
        if self.lifting is not None:
            centers = self.lifting.cells_ego.view(*self.lifting.shape, 3)
        return warp(queries, earlier_from_ego, centers, self.config.grid)

    def _encode(
        self,
        images: UInt8[Tensor, "B V 3 H W"],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
        earlier: Float[Tensor, "B h w z d"] | None = None,
    ) -> Scene:
        """Voxel queries that have read the images of one frame."""
        features = self.image_features(images.flatten(0, 1))
        hits = self.find_hits((images.shape[-2], images.shape[-1]), image_from_camera, camera_from_ego)
        return self.see(features, hits, len(images), earlier)

    def see(
        self,
        features: Sequence[Float[Tensor, "cameras d _ _"]],
        hits: HitQueries,
        samples: int,
        earlier: Float[Tensor, "B h w z d"] | None = None,
    ) -> Scene:
        """Voxel queries that have read these image features; arguments are those of `transform_view`."""
        depth = self.encoder.depth_head(features) if self.encoder.depth_head is not None else None
        logits = self.read_pixels(features)
        queries, trace = self.transform_view(features, hits, samples, earlier, depth, logits)
        pixels = self.pixel_output(logits, self._depth_shares(depth)) if self.teaches_pixels else None
        return Scene(queries, trace, hits, self.clustering_grid(features), self._maps(features), pixels)

    def _maps(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> DetailMaps | None:
        """What single voxels read from; the heads read the finest scale for it."""
        if self.detail is None or self.pixel_heads is None:
            return None
        told = self.pixel_heads(features[0], self.config.strides[0])
        maps: DetailMaps = self.detail.maps([normalised_cells(scale) for scale in features], told)
        return maps

    def _depth_shares(self, depth: Float[Tensor, "cameras bins _ _"] | None) -> DepthShares | None:
        """Depth as the attention has it; None where it is not weighted by depth."""
        if depth is None or self.encoder.depth_head is None:
            return None
        stride = self.config.strides[self.encoder.depth_head.scale]
        return DepthShares(depth, UniformBins(NEAREST_M, FARTHEST_M, DEPTH_BINS), stride)

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """The anchors of all queries."""
        return self.anchors_ego.flatten(0, 2)

    def find_hits(
        self,
        image_size: tuple[int, int],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
    ) -> HitQueries:
        """Hit queries of cameras with images of (H, W) pixels, and hits of their lifted cells."""
        hits = super().find_hits(image_size, image_from_camera, camera_from_ego)
        if self.lifting is None:
            return hits
        cells = self.hits_of(self.lifting.cells_ego[:, None], image_size, image_from_camera, camera_from_ego)
        return dataclasses.replace(hits, cells=cells)

    def transform_view(
        self,
        features: Sequence[Float[Tensor, "cameras d _ _"]],
        hits: HitQueries,
        samples: int,
        earlier: Float[Tensor, "B h w z d"] | None = None,
        depth: Float[Tensor, "cameras bins _ _"] | None = None,
        pixels: PixelLogits | None = None,
    ) -> tuple[Float[Tensor, "B h w z d"], MappingTrace | None]:
        """Encodes the voxel queries of one frame: prototypes of image features, the layers of the encoder, refinement.

        The features are normalised first: without that they grow through training and drown the queries.

        Args:
            features: one map per scale of all B*V cameras.
            hits: which queries each camera hits.
            samples: B.
            earlier: encoded queries of the frame before in the present ego frame; only with recurrence.
            depth: of every camera, where attention is weighted by it; None to have it predicted here.
            pixels: what the heads say about image cells; None to have it predicted here.
        """
        prototypes = None
        if self.config.prototype_mapping:
            prototypes = self.group(self.clustered(features))
        if depth is None and self.encoder.depth_head is not None:
            depth = self.encoder.depth_head(features)
        start, cells = self.voxel_queries.table.expand(samples, -1, -1, -1, -1), None
        scales = [normalised_cells(scale) for scale in features]
        if self.lifting is not None and hits.cells is not None:
            pixels = pixels or self.read_pixels(features)
            cells = self.lifting(scales, hits.cells, samples, pixels.depth if pixels is not None else None)
            start = start + self.lifting.start(cells)
        views = CameraViews(scales, prototypes, hits, depth)
        queries, trace = self.encoder(start, self.voxel_queries.positions(), views, earlier)
        queries = queries + self.voxel_queries.positions()
        if self.lifting is not None and cells is not None:
            queries = cells + self.lifting.spread(queries)
        if self.refinement is not None:
            queries = self.refinement(queries)
        return queries, trace
