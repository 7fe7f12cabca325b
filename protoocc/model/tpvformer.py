"""TPVFormer (arXiv 2302.07817): three planes of queries read the images; a voxel is the sum of its places on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.model.attention import ImageCrossAttention
from protoocc.model.decoder import classifier_bias
from protoocc.model.encoder import place_waves
from protoocc.model.grouping import normalised_cells
from protoocc.model.image_config import ImageConfig
from protoocc.model.image_network import ImageNetwork
from protoocc.model.plane_attention import HybridAttention, PlaneLayer, PlaneViews, TopAttention
from protoocc.model.planes import PLANES, Shape, plane_points, sum_planes
from protoocc.model.projection import HitQueries
from protoocc.model.prototypes import cluster, placed
from protoocc.network import NetworkConfig, NetworkOutput
from schemas.geometry import VoxelGrid


class TpvFormerConfig(ImageConfig):
    """Settings of TPVFormer. Defaults are those of its published network for occupancy, on the grid of Occ3D."""

    kind: Literal["tpvformer"] = Field("tpvformer", description="Three planes of queries in the place of voxels.")
    plane_shape: tuple[int, int, int] = Field((100, 100, 8), description="Cells of the planes along x, y, z.")
    layers: int = Field(3, ge=1, description="Layers of the view transformation.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    anchors: tuple[int, int, int] = Field(
        (4, 32, 32),
        description="Points of the pillar of a cell of the xy, xz and yz plane at which it looks at images.",
    )
    points: tuple[int, int, int] = Field(
        (8, 64, 64), description="Sampling points of these cells, per head and feature scale."
    )
    self_attention: Literal["hybrid", "top"] = Field(
        "hybrid",
        description="hybrid: all planes with each other, as in the paper; top: within the xy plane alone, as in the "
        "published network for occupancy.",
    )
    self_points: int = Field(32, ge=1, description="Points of it, per head and plane.")
    self_anchors: int = Field(16, ge=1, description="Points of a pillar around which those of hybrid attention lie.")
    ffn_channels: int = Field(512, ge=1, description="Hidden channels of the feed-forward block.")
    prototype_mapping: bool = Field(False, description="Map image prototypes onto the hit cells, ProtoOcc's (1).")
    prototype_cell: int = Field(4, ge=1, description="Edge r of the cell that starts a prototype, feature cells.")
    clustering_stride: int = Field(8, description="Feature scale that is clustered, pixels per cell.")
    clustering_iterations: int = Field(3, ge=0, description="Soft assignment rounds; 0 keeps the cell means.")
    free_prior: float = Field(0.8, gt=0, lt=1, description="Share of free voxels that the untrained network predicts.")

    @model_validator(mode="after")
    def _check_planes(self) -> TpvFormerConfig:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} must be a multiple of heads {self.heads}")
        if any(points % anchors for points, anchors in zip(self.points, self.anchors, strict=True)):
            raise ValueError(f"points {self.points} must be multiples of anchors {self.anchors}")
        if self.self_attention == "hybrid" and self.self_points % self.self_anchors:
            raise ValueError(f"self_points {self.self_points} must be a multiple of self_anchors {self.self_anchors}")
        if any(cells > voxels for cells, voxels in zip(self.plane_shape, self.grid.shape, strict=True)):
            raise ValueError(f"plane_shape {self.plane_shape} is finer than the grid {self.grid.shape}")
        if self.clustering_stride not in self.strides:
            raise ValueError(f"clustering_stride {self.clustering_stride} is not one of strides {self.strides}")
        if self.pixel_classes or self.pixel_depth:
            raise ValueError("TPVFormer has no heads for image cells: set pixel_classes and pixel_depth to false")
        if self.frames > 1:
            raise ValueError(f"frames = {self.frames}: TPVFormer reads one frame")
        return self


class TpvFormer(ImageNetwork):
    """Image features -> planes of queries -> sums at voxels -> classes."""

    Config: ClassVar[type[NetworkConfig]] = TpvFormerConfig
    config: TpvFormerConfig
    anchors_0: Tensor
    voxels_at_once: int = 160_000
    """Voxels that are classified in one go: what bounds the memory of a prediction."""

    def __init__(self, config: TpvFormerConfig) -> None:
        """Random weights; the classifier starts at the prior of free space."""
        super().__init__(config)
        self.config = config
        d, shape = config.channels, config.plane_shape
        self.queries = nn.ParameterList(nn.Parameter(_start(shape, plane, d)) for plane in PLANES)
        self.axes = nn.ParameterList(nn.Parameter(torch.randn(size, d) * 0.5) for size in shape)
        self.scale_embedding = nn.Parameter(torch.randn(len(config.strides), d) * 0.1)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.layers))
        label = nn.Linear(d, config.num_classes)
        self.classifier = nn.Sequential(nn.Linear(d, 2 * d), nn.Softplus(), nn.Linear(2 * d, d), label)
        with torch.no_grad():
            label.bias.copy_(classifier_bias(config.num_classes, config.free_class, config.free_prior))
        for number, (plane, anchors) in enumerate(zip(PLANES, config.anchors, strict=True)):
            points = _in_metres(plane_points(shape, plane, anchors), config.grid)
            self.register_buffer(f"anchors_{number}", points, persistent=False)

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of one view.

        Args:
            batch: images and calibration; targets are not read.
            voxels: positions in the flattened (B, X, Y, Z) volume to classify, None for all.
        """
        planes = self.encode(batch)
        if voxels is None:
            voxels = self._all_voxels(planes)
        return NetworkOutput(self.classify(planes, voxels)[None], voxels)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """A part of the voxels at a time, which saves memory."""
        planes = self.encode(batch)
        parts = self._all_voxels(planes).split(self.voxels_at_once)
        return torch.cat([self.classify(planes, part).argmax(-1).to(torch.uint8) for part in parts])

    def _all_voxels(self, planes: Sequence[Float[Tensor, "B _ _ d"]]) -> Int64[Tensor, " n"]:
        return torch.arange(len(planes[0]) * math.prod(self.config.grid.shape), device=planes[0].device)

    def classify(self, planes: Sequence[Float[Tensor, "B _ _ d"]], voxels: Int64[Tensor, " n"]) -> Float[Tensor, "n L"]:
        """Logits of chosen voxels, positions in the flattened (B, X, Y, Z) volume."""
        logits: Tensor = self.classifier(sum_planes(planes, self.config.grid.shape, voxels))
        return logits

    def encode(self, batch: Batch) -> list[Float[Tensor, "B _ _ d"]]:
        """Planes that have read the images; the features are normalised first, as ProtoOcc's are."""
        size, samples = (batch.images.shape[-2], batch.images.shape[-1]), len(batch.images)
        features = [normalised_cells(scale) for scale in self.image_features(batch.images.flatten(0, 1))]
        prototypes = self._group(features) if self.config.prototype_mapping else None
        scales = [
            scale + embedding[:, None, None] for scale, embedding in zip(features, self.scale_embedding, strict=True)
        ]
        hits: HitQueries | None = self.find_hits(size, batch.image_from_camera, batch.camera_from_ego)
        found = []
        while hits is not None:
            found.append(hits)
            hits = hits.cells
        positions = self.positions()
        planes = [query.expand(samples, -1, -1, -1) for query in self.queries]
        for layer in self.layers:
            planes = layer(planes, positions, PlaneViews(scales, found, prototypes))
        return planes

    def positions(self) -> list[Float[Tensor, "_ _ d"]]:
        """Positional embedding of the cells of each plane: the sum of its two axes."""
        return [self.axes[row][:, None] + self.axes[column][None, :] for row, column in PLANES]

    def anchors(self) -> Float[Tensor, "q anchors 3"]:
        """Those of the xy plane's cells."""
        return self.anchors_0

    def find_hits(
        self,
        image_size: tuple[int, int],
        image_from_camera: Float[Tensor, "B V 3 3"],
        camera_from_ego: Float[Tensor, "B V 4 4"],
    ) -> HitQueries:
        """Hits of the cells of the xy plane; its ``cells`` are those of xz, and theirs those of yz."""
        top = super().find_hits(image_size, image_from_camera, camera_from_ego)
        side, front = (
            self.hits_of(getattr(self, f"anchors_{number}"), image_size, image_from_camera, camera_from_ego)
            for number in range(1, len(PLANES))
        )
        return dataclasses.replace(top, cells=dataclasses.replace(side, cells=front))

    def _group(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> Float[Tensor, "cameras M d"]:
        """Prototypes of each camera."""
        scale = features[self.config.strides.index(self.config.clustering_stride)]
        return cluster(placed(scale), self.config.prototype_cell, self.config.clustering_iterations)


def _start(shape: Shape, plane: tuple[int, int], channels: int) -> Float[Tensor, "_ _ d"]:
    """Queries of a plane: waves of their place plus a little noise, as voxel queries start."""
    (along,) = {0, 1, 2} - set(plane)
    x, y, z = (1 if axis == along else size for axis, size in enumerate(shape))
    waves = place_waves((x, y, z), channels).squeeze(along)
    return waves + torch.randn(waves.shape) * 0.1


def _layer(config: TpvFormerConfig) -> PlaneLayer:
    d, heads, levels = config.channels, config.heads, len(config.strides)
    looks = [
        ImageCrossAttention(d, heads=heads, levels=levels, points=points, start_anchors=anchors)
        for points, anchors in zip(config.points, config.anchors, strict=True)
    ]
    attention: nn.Module = TopAttention(d, heads=heads, points=config.self_points)
    if config.self_attention == "hybrid":
        points, anchors = config.self_points, config.self_anchors
        attention = HybridAttention(d, config.plane_shape, heads=heads, points=points, anchors=anchors)
    return PlaneLayer(attention, looks, config.ffn_channels, maps=config.prototype_mapping)


def _in_metres(shares: Float[Tensor, "cells anchors 3"], grid: VoxelGrid) -> Float[Tensor, "cells anchors 3"]:
    """Points of the grid's frame from shares of its extent."""
    low, high = torch.tensor(grid.minimum_m), torch.tensor(grid.maximum_m)
    return low + shares * (high - low)
