"""The network in float64 uses the equations of the references at the places that the paper names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from protoocc.config import TrainConfig
from protoocc.model import ProtoOccConfig
from protoocc.model.backbone import padded_size
from tests.protoocc.reference import geometry, mapping, pixels
from tests.protoocc.reference.arithmetic import assert_agrees
from tests.protoocc.reference.network import make_network, record
from tests.protoocc.reference.rigs import random_batch


@pytest.fixture(scope="module")
def config(make_tiny_config: Callable[[], TrainConfig]) -> ProtoOccConfig:
    """All parts of the paper, two layers."""
    return make_tiny_config().model.model_copy(update={"encoder_layers": 2})


@torch.no_grad()
def test_every_layer_maps_the_clustered_features(config: ProtoOccConfig) -> None:
    """P_img is the clustering of the stride-8 map; each layer applies (1a) and (1b) to the hits of each camera."""
    network, batch = make_network(config), random_batch(config.grid, samples=2)
    modules: list[Any] = [layer.mapping for layer in network.encoder.layers]
    calls = [record(module) for module in modules]
    network(batch)
    features = network.image_features(batch.images.flatten(0, 1))[config.strides.index(config.clustering_stride)]
    rounds = config.clustering_iterations
    grouped = [
        mapping.cluster(mapping.placed(image), config.prototype_cell, rounds, 10.0) for image in features.tolist()
    ]
    anchors = network.anchors_ego.flatten(0, 2).tolist()
    cameras = batch.camera_from_ego.flatten(0, 1).tolist(), batch.image_from_camera.flatten(0, 1).tolist()
    hits = geometry.hits(anchors, *cameras, (40, 70), padded_size(40, 70))
    for module, layer_calls in zip(modules, calls, strict=True):
        ((prototypes, queries, places, counts), (mapped, voxel_prototypes, similarity)) = layer_calls[0]
        assert len(layer_calls) == 1
        assert counts == [sum(hit.camera == camera for hit in hits) for camera in range(6)]
        assert min(counts) > 0
        assert_agrees(prototypes, grouped)
        rows = zip(*(part.split(counts) for part in (queries, places, mapped, similarity)), strict=True)
        for camera, (own, place, query, alike) in enumerate(rows):
            assert_agrees(place, [list(hit.places[0] or ()) for hit in hits if hit.camera == camera])
            literal = mapping.map_prototypes(module, grouped[camera], own.tolist(), place.tolist())
            assert_agrees(query, literal[0])
            assert_agrees(voxel_prototypes[camera], literal[1])
            assert_agrees(alike.T, literal[2])


@torch.no_grad()
def test_pixel_features_come_from_the_last_layer(config: ProtoOccConfig) -> None:
    """X of every camera is equation (2) of the last layer's A and P_vox, and of where its attention looked."""
    network, batch = make_network(config), random_batch(config.grid)
    last: Any = network.encoder.layers[-1]
    mapped, looked = record(last.mapping), record(last.cross_attention)
    output = network(batch)
    sampling = looked[0][1][1]
    ((_, (_, voxel_prototypes, similarity)),) = mapped
    counts = mapped[0][0][3]
    places, weights = sampling.locations.split(counts), sampling.weights.split(counts)
    assert network.encoder.pixel_features is not None
    scale, shift = network.encoder.pixel_features.scale.item(), network.encoder.pixel_features.shift.item()
    assert output.pixel_features is not None and output.pixel_seen is not None
    height, width = output.pixel_features.shape[2:4]
    for camera, alike in enumerate(similarity.split(counts)):
        attention = pixels.attention_map(places[camera].tolist(), weights[camera].tolist(), height, width)
        expected, seen = pixels.pixel_features(
            attention, alike.T.tolist(), voxel_prototypes[camera].tolist(), scale=scale, shift=shift
        )
        assert_agrees(output.pixel_features[0, camera].flatten(0, 1), expected)
        assert output.pixel_seen[0, camera].flatten().tolist() == seen
