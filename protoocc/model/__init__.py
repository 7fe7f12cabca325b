"""ProtoOcc: occupancy from cameras with low-resolution voxel queries; reads like section 3 of the paper."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from protoocc.batch import Batch
from protoocc.model.backbone import padded_size
from protoocc.model.config import ProtoOccConfig, UpsampleStage
from protoocc.model.decoder import Decoder
from protoocc.model.presets import (
    bevformer_base,
    bevformer_small,
    bevformer_tiny,
    demo,
    panoocc_base,
    panoocc_small,
    panoocc_small_dfa3d,
    panoocc_tiny,
    protoocc_base,
    protoocc_small,
    protoocc_tiny,
)
from protoocc.model.query_network import QueryNetwork
from protoocc.network import ImagePrototypes, NetworkConfig, NetworkOutput

__all__ = [
    "ProtoOcc",
    "ProtoOccConfig",
    "QueryNetwork",
    "UpsampleStage",
    "bevformer_base",
    "bevformer_small",
    "bevformer_tiny",
    "demo",
    "panoocc_base",
    "panoocc_small",
    "panoocc_small_dfa3d",
    "panoocc_tiny",
    "protoocc_base",
    "protoocc_small",
    "protoocc_tiny",
]


class ProtoOcc(QueryNetwork):
    """Image features -> prototypes -> voxel queries -> occupancy."""

    Config: ClassVar[type[NetworkConfig]] = ProtoOccConfig

    def __init__(self, config: ProtoOccConfig) -> None:
        """Builds all parts with random weights."""
        super().__init__(config)
        self.decoder = Decoder(config)

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of all views and, for the mask loss, X of equation (2) on the clustering grid.

        Args:
            batch: images and calibration; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all (`losses.choose_voxels`).

        Raises:
            DataError: the network reads several frames and the batch has another number of earlier ones.
        """
        scene = self.encode_scene(batch)
        pixel_features, pixel_seen = None, None
        if self.config.prototype_optimisation and scene.trace is not None:
            cells, seen = self.encoder.pixels(scene.trace, scene.hits, scene.pixel_grid)
            cameras = batch.images.shape[:2]
            pixel_features = cells.view(*cameras, *scene.pixel_grid, -1)
            pixel_seen = seen.view(*cameras, *scene.pixel_grid)
        logits = self.decoder(scene.queries, voxels)
        if voxels is None:
            voxels = torch.arange(logits.shape[1], device=logits.device)
        stride = self.config.clustering_stride
        return NetworkOutput(logits, voxels, pixel_features, pixel_seen, stride, scene.pixels)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """Sample by sample and without pixel features, which saves memory."""
        queries = self.encode_scene(batch).queries
        return torch.cat([self.decoder(sample[None])[0].argmax(-1).to(torch.uint8) for sample in queries])

    def image_prototypes(self, batch: Batch) -> ImagePrototypes | None:
        """Cells and prototypes of the clustering map, cells of the padding left out; None without prototype mapping."""
        if not self.config.prototype_mapping:
            return None
        images = batch.images[0]
        features = self.clustered(self.image_features(images))
        height, width = images.shape[-2:]
        rows, columns = padded_size(height, width)
        inside = (-(-features.shape[-2] * height // rows), -(-features.shape[-1] * width // columns))
        return ImagePrototypes(features[:, :, : inside[0], : inside[1]], self.group(features))
