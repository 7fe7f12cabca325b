"""ProtoOcc: occupancy from cameras with low-resolution voxel queries; reads like section 3 of the paper."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from protoocc.batch import Batch
from protoocc.model.config import ProtoOccConfig, UpsampleStage
from protoocc.model.decoder import Decoder
from protoocc.model.detail import Detail, DetailMaps, voxel_centers
from protoocc.model.plain import Plain, PlainConfig
from protoocc.model.presets import (
    bevformer_base,
    bevformer_small,
    bevformer_tiny,
    demo,
    monoscene,
    monoscene_demo,
    monoscene_nuscenes,
    panoocc_base,
    panoocc_small,
    panoocc_small_dfa3d,
    panoocc_tiny,
    plain,
    protoocc_base,
    protoocc_mini,
    protoocc_small,
    protoocc_tiny,
    tpvformer_base,
    tpvformer_demo,
)
from protoocc.model.projection import HitQueries
from protoocc.model.query_network import QueryNetwork, Scene
from protoocc.network import NetworkConfig, NetworkOutput

__all__ = [
    "Plain",
    "PlainConfig",
    "ProtoOcc",
    "ProtoOccConfig",
    "QueryNetwork",
    "UpsampleStage",
    "bevformer_base",
    "bevformer_small",
    "bevformer_tiny",
    "demo",
    "monoscene",
    "monoscene_demo",
    "monoscene_nuscenes",
    "panoocc_base",
    "panoocc_small",
    "panoocc_small_dfa3d",
    "panoocc_tiny",
    "plain",
    "protoocc_base",
    "protoocc_mini",
    "protoocc_small",
    "protoocc_tiny",
    "tpvformer_base",
    "tpvformer_demo",
]


class ProtoOcc(QueryNetwork):
    """Image features -> prototypes -> voxel queries -> occupancy."""

    Config: ClassVar[type[NetworkConfig]] = ProtoOccConfig
    voxels_at_once: int = 160_000
    """Voxels that read the images in one go: what bounds the memory of a prediction."""

    def __init__(self, config: ProtoOccConfig) -> None:
        """Builds all parts with random weights."""
        super().__init__(config)
        self.decoder = Decoder(config, with_detail=config.voxel_detail)

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of all views and, for the mask loss, X of equation (2) on the clustering grid.

        Args:
            batch: images and calibration; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all (`losses.choose_voxels`).

        Raises:
            DataError: the network reads several frames and the batch has another number of earlier ones.
        """
        scene = self.encode_scene(batch)
        cells, seen = self.read_cells(batch, self.encoder.pixel_features, scene.trace, scene.hits, scene.pixel_grid)
        logits = self.decode(batch, scene, voxels)
        if voxels is None:
            voxels = torch.arange(logits.shape[1], device=logits.device)
        return NetworkOutput(logits, voxels, cells, seen, self.config.clustering_stride, scene.pixels)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """Sample by sample and without pixel features, which saves memory."""
        scene = self.encode_scene(batch)
        classes = []
        for number, sample in enumerate(scene.queries):
            detail = self._read_sample(batch, scene, number, self._all_voxels(scene))
            classes.append(self.decoder(sample[None], None, None, detail)[0].argmax(-1).to(torch.uint8))
        return torch.cat(classes)

    def decode(self, batch: Batch, scene: Scene, voxels: Int64[Tensor, " n"] | None = None) -> Float[Tensor, "P n L"]:
        """Class logits of chosen voxels in every view (see `Decoder`), which read their own detail where they may."""
        return self.decoder(scene.queries, voxels, batch.seeds, self._read_details(batch, scene, voxels))

    def _all_voxels(self, scene: Scene) -> Int64[Tensor, " n"]:
        return torch.arange(math.prod(self.config.grid.shape), device=scene.queries.device)

    def _read_details(self, batch: Batch, scene: Scene, voxels: Int64[Tensor, " n"] | None) -> Detail | None:
        """Detail of voxels of the (B, X, Y, Z) volume, flattened; None for all of them."""
        if scene.maps is None:
            return None
        samples, every = len(scene.queries), self._all_voxels(scene)
        if samples == 1:
            return self._read_sample(batch, scene, 0, every if voxels is None else voxels)
        if voxels is None:
            voxels = torch.arange(samples * len(every), device=every.device)
        sample = torch.div(voxels, len(every), rounding_mode="floor")
        order = torch.argsort(sample, stable=True)
        counts = torch.bincount(sample, minlength=samples).tolist()
        places = (voxels - sample * len(every))[order].split(counts)
        found = [self._read_sample(batch, scene, number, place) for number, place in enumerate(places)]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        joined = zip(*(part for part in found if part is not None), strict=True)
        return Detail(*(torch.cat(part).index_select(0, back) for part in joined))

    def _read_sample(self, batch: Batch, scene: Scene, number: int, place: Int64[Tensor, " n"]) -> Detail | None:
        """Detail of voxels of one sample, positions in its flattened (X, Y, Z) volume, in parts that fit in memory."""
        if scene.maps is None or self.detail is None:
            return None
        cameras, height, width = batch.images.shape[1], batch.images.shape[-2], batch.images.shape[-1]
        first = number * cameras
        maps = DetailMaps(*(part[first : first + cameras] for part in scene.maps))
        matrices, poses = batch.image_from_camera[number, None], batch.camera_from_ego[number, None]
        found = []
        for part in place.split(self.voxels_at_once):
            hits = self.voxel_hits(part, (height, width), matrices, poses)
            found.append(self.detail(maps, hits, len(part)))
        return Detail(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def voxel_hits(
        self,
        place: Int64[Tensor, " n"],
        image_size: tuple[int, int],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
    ) -> HitQueries:
        """Which of some voxels, positions in the flattened (X, Y, Z) volume, each camera sees."""
        centers = voxel_centers(self.config.grid, place)[:, None]
        return self.hits_of(centers, image_size, image_from_camera, camera_from_ego)
