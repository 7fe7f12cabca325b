"""TPVFormer: sums over planes and both attentions beside literal loops, shapes, prototypes, and what it learns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protoocc.batch import Batch
from protoocc.checkpoint import load_network
from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.evaluate import score
from protoocc.inference import predict
from protoocc.model.attention import ImageCrossAttention
from protoocc.model.plane_attention import OWN_PLANE, HybridAttention, PlaneViews, seen_place
from protoocc.model.planes import PLANES, on_planes, plane_points, sum_planes
from protoocc.model.projection import OUTSIDE, HitQueries
from protoocc.model.prototypes import cluster, placed
from protoocc.model.tpvformer import TpvFormer, TpvFormerConfig
from protoocc.trainer import train
from schemas.classes import OCC3D
from schemas.geometry import SEMANTICKITTI_GRID
from tests.protoocc.conftest import GRID
from tests.protoocc.reference.rigs import random_batch as precise_batch
from tests.protoocc.reference.rigs import with_cameras
from tests.protoocc.small_scene import take_steps

SHAPE = (4, 5, 3)


def tiny(**changes: object) -> TpvFormerConfig:
    """Planes of 4 x 4, 4 x 2 and 4 x 2 cells for 8 x 8 x 4 voxels."""
    fields: dict[str, object] = {
        "grid": GRID,
        "backbone": "resnet18",
        "backbone_width": 8,
        "strides": (8, 16),
        "channels": 16,
        "plane_shape": (4, 4, 2),
        "layers": 1,
        "heads": 2,
        "anchors": (2, 4, 4),
        "points": (4, 4, 4),
        "self_points": 4,
        "self_anchors": 2,
        "ffn_channels": 16,
        "prototype_cell": 2,
    }
    return TpvFormerConfig.model_validate(fields | changes)


def random_batch(samples: int = 1) -> Batch:
    batch = precise_batch(GRID, samples)
    matrices = {"image_from_camera": batch.image_from_camera, "camera_from_ego": batch.camera_from_ego}
    return dataclasses.replace(batch, **{name: matrix.float() for name, matrix in matrices.items()})


def random_planes(samples: int, channels: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(samples, SHAPE[row], SHAPE[column], channels) for row, column in PLANES]


def test_a_voxel_is_the_sum_of_its_three_shadows() -> None:
    planes = random_planes(2)
    voxels = torch.tensor([0, 17, 60 + 44, 119])
    found = sum_planes(planes, SHAPE, voxels)
    for number, voxel in enumerate(voxels.tolist()):
        sample, place = divmod(voxel, 60)
        x, y, z = place // 15, place // 3 % 5, place % 3
        torch.testing.assert_close(
            found[number], planes[0][sample, x, y] + planes[1][sample, x, z] + planes[2][sample, y, z]
        )


def test_finer_voxels_lie_between_the_middles_of_cells() -> None:
    """Planes of 2 cells along x for 4 voxels: 0, 1/4, 3/4 and 1 of the way from the first cell to the second."""
    planes = [torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, 1)]
    planes[0][0, 1] = 8.0
    found = sum_planes(planes, (4, 1, 1), torch.arange(4))
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 2.0, 6.0, 8.0]))


def test_pillars_run_along_the_axis_that_a_plane_lacks() -> None:
    """Cell (2, 1) of the xz plane, four points: x and z in the middle of the cell, y at 1/8, 3/8, 5/8, 7/8."""
    points = plane_points(SHAPE, PLANES[1], 4)
    assert points.shape == (4 * 3, 4, 3)
    expected = torch.tensor([[2.5 / 4, (2 * n + 1) / 8, 1.5 / 3] for n in range(4)])
    torch.testing.assert_close(points[2 * 3 + 1], expected)
    # On its own plane all of them are one point (along z, along x), on the xy plane a row of constant x.
    torch.testing.assert_close(on_planes(points[7])[:, 1], torch.tensor([[0.5, 0.625]] * 4))
    torch.testing.assert_close(on_planes(points[7])[:, 0], torch.tensor([[(2 * n + 1) / 8, 0.625] for n in range(4)]))


def bilinear(plane: Tensor, u: float, v: float) -> Tensor:
    """Value of a (rows, columns, c) map at a place in shares; zero outside, cell middles hold the values."""
    column, row = u * plane.shape[1] - 0.5, v * plane.shape[0] - 0.5
    left, top = math.floor(column), math.floor(row)
    total = torch.zeros(plane.shape[2])
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < plane.shape[0] and 0 <= c < plane.shape[1]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * plane[r, c]
    return total


@torch.no_grad()
def test_hybrid_attention_is_the_literal_sum() -> None:
    """Every cell of every plane beside loops over heads, planes and points."""
    heads, points, anchors, channels = 2, 4, 2, 6
    planes = random_planes(2, channels)
    positions = [torch.randn(plane.shape[1:]) for plane in planes]
    attention = HybridAttention(channels, SHAPE, heads=heads, points=points, anchors=anchors)
    for layer in (*attention.offsets, *attention.weights):
        layer.weight.normal_(std=0.3)
    found = attention(planes, positions)
    values = [each(plane) for each, plane in zip(attention.values, planes, strict=True)]
    width = channels // heads
    for own, (row, column) in enumerate(PLANES):
        pillars = plane_points(SHAPE, (row, column), anchors).view(SHAPE[row], SHAPE[column], anchors, 3)
        for r, c in ((0, 0), (SHAPE[row] - 1, 1)):
            looking = planes[own][1, r, c] + positions[own][r, c]
            offsets = attention.offsets[own](looking).view(heads, 3, points, 2)
            logits = attention.weights[own](looking).view(heads, 3, points + 1)
            gathered = torch.zeros(channels)
            for head in range(heads):
                trust = logits[head, :, -1].softmax(0)
                for level, (rows, columns) in enumerate(PLANES):
                    weights = logits[head, level, :-1].softmax(0) * trust[level]
                    part = values[level][1, ..., head * width : (head + 1) * width]
                    for point in range(points):
                        anchor = pillars[r, c, point % anchors]
                        u = anchor[columns] + offsets[head, level, point, 0] / SHAPE[columns]
                        v = anchor[rows] + offsets[head, level, point, 1] / SHAPE[rows]
                        sampled = bilinear(part, float(u), float(v))
                        gathered[head * width : (head + 1) * width] += weights[point] * sampled
            torch.testing.assert_close(found[own][1, r, c], attention.combine[own](gathered), atol=1e-5, rtol=1e-4)


def test_untrained_cells_prefer_their_own_plane() -> None:
    attention = HybridAttention(6, SHAPE, heads=2, points=4, anchors=2)
    for own, weights in enumerate(attention.weights):
        trust = weights(torch.randn(6)).view(2, 3, 5)[:, :, -1].softmax(-1)
        torch.testing.assert_close(trust[:, own], torch.full((2,), 1 / (1 + 2 * math.exp(-OWN_PLANE))))


def test_untrained_points_lie_around_their_anchors_alike() -> None:
    """Four points, two anchors: points 0 and 1 on theirs, 2 and 3 a cell away; head 0 looks along the columns."""
    offsets = ImageCrossAttention(8, heads=2, levels=1, points=4, start_anchors=2).offsets.bias.view(2, 4, 2)
    torch.testing.assert_close(offsets[0], torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))


def test_place_of_a_hit_is_the_mean_of_the_anchors_that_are_seen() -> None:
    reference = torch.tensor([[[0.2, 0.4], [OUTSIDE, OUTSIDE], [0.4, 0.8]], [[OUTSIDE] * 2, [0.1, 0.9], [OUTSIDE] * 2]])
    index = torch.tensor([0, 1])
    hits = HitQueries(index, index, reference, torch.ones(2, 3), [2])
    torch.testing.assert_close(seen_place(hits), torch.tensor([[0.3, 0.6], [0.1, 0.9]]))


def test_prototypes_meet_the_cells_of_all_planes_together() -> None:
    """What is mapped are the hits of xy, xz and yz of a camera, and then those of the next one; each gets its own."""
    torch.manual_seed(0)
    network, batch = TpvFormer(tiny(prototype_mapping=True)).eval(), random_batch()
    layer = network.layers[0]
    calls: list[tuple[Tensor, ...]] = []
    layer.mapping.register_forward_hook(lambda _, arguments, results: calls.append((*arguments, results[0])))
    network(batch)
    hits = network.find_hits((40, 70), batch.image_from_camera, batch.camera_from_ego)
    planes = [hits, hits.cells, hits.cells.cells]
    ((prototypes, queries, places, counts, mapped),) = calls
    assert counts == [sum(one.counts[camera] for one in planes) for camera in range(3)]
    assert min(min(one.counts) for one in planes) > 0
    second = torch.cat([seen_place(one).split(one.counts)[1] for one in planes])
    torch.testing.assert_close(places.split(counts)[1], second)
    parts = queries.split([one.counts[camera] for camera in range(3) for one in planes])
    rows = [torch.cat(parts[plane::3]) for plane in range(3)]
    returned = layer._map(rows, PlaneViews([], planes, prototypes))
    for camera, own in enumerate(mapped.split(counts)):
        sent = [part.split(one.counts)[camera] for part, one in zip(returned, planes, strict=True)]
        torch.testing.assert_close(torch.cat(sent), own)
    features = network.image_features(batch.images.flatten(0, 1))[0]
    normal = torch.nn.functional.layer_norm(features.movedim(1, -1), [16]).movedim(-1, 1)
    torch.testing.assert_close(prototypes, cluster(placed(normal), 2, 3))


def test_prototypes_change_the_planes_and_cost_three_maps_a_layer() -> None:
    plain, mapped = TpvFormer(tiny()), TpvFormer(tiny(prototype_mapping=True))
    more = sum(p.numel() for p in mapped.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 3 * (16 * 16 + 16) + 2
    mapped.load_state_dict(plain.state_dict(), strict=False)
    batch = random_batch()
    assert not torch.equal(plain.eval()(batch).logits, mapped.eval()(batch).logits)


@pytest.mark.parametrize("self_attention", ["hybrid", "top"])
def test_voxels_are_classified_where_they_are(self_attention: str) -> None:
    torch.manual_seed(0)
    network, batch = TpvFormer(tiny(self_attention=self_attention)).eval(), random_batch(2)
    network.voxels_at_once = 100
    chosen = torch.tensor([500, 3, 17])
    whole = network(batch)
    assert whole.logits.shape == (1, 2 * 8 * 8 * 4, 18)
    torch.testing.assert_close(network(batch, chosen).logits, whole.logits[:, chosen])
    assert torch.equal(network.predict(batch).flatten(), whole.logits[0].argmax(-1).to(torch.uint8))


def test_order_of_cameras_means_nothing() -> None:
    torch.manual_seed(0)
    network, batch = TpvFormer(tiny(prototype_mapping=True)).eval(), random_batch()
    turned = with_cameras(batch, [2, 0, 1])
    torch.testing.assert_close(network(batch).logits, network(turned).logits, atol=1e-4, rtol=1e-4)


def test_one_camera_and_the_grid_of_semantickitti() -> None:
    config = tiny(grid=SEMANTICKITTI_GRID, plane_shape=(16, 16, 4), num_classes=20, free=0)
    logits = TpvFormer(config).eval()(with_cameras(random_batch(), [0]), torch.tensor([0, 256 * 256 * 32 - 1])).logits
    assert logits.shape == (1, 2, 20)


def test_wrong_settings_are_refused() -> None:
    wrong = {
        "multiple of heads": {"heads": 3},
        "multiples of anchors": {"points": (3, 4, 4)},
        "multiple of self_anchors": {"self_points": 3},
        "finer than the grid": {"plane_shape": (16, 4, 2)},
        "reads one frame": {"frames": 2},
        "clustering_stride 32": {"clustering_stride": 32},
        "no heads": {"pixel_depth": True},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            tiny(**changes)


def test_it_trains_and_scores_on_shards(
    make_tiny_config: Callable[[], TrainConfig], shards: Path, tmp_path: Path
) -> None:
    fields = make_tiny_config().model_dump(mode="json")
    fields |= {"model": tiny(prototype_mapping=True).model_dump(mode="json")}
    train(TrainConfig.model_validate(fields | {"schedule": {"steps": 2, "warmup_steps": 1}}), shards, tmp_path / "run")
    network, stored = load_network(tmp_path / "run")
    assert isinstance(network, TpvFormer) and isinstance(stored.model, TpvFormerConfig)
    assert len(list(predict(network, open_shards(shards, "val")))) == 2
    assert score(tmp_path / "run", shards, "val").row("model").iou is not None


@pytest.mark.slow
def test_it_memorises_one_sample() -> None:
    torch.manual_seed(0)
    batch = random_batch()
    labels = torch.full((1, *GRID.shape), OCC3D.free)
    labels[:, :, :, 0] = OCC3D.index("driveable_surface")
    labels[:, 4:6, 2:4, 1:3] = OCC3D.index("car")
    batch = dataclasses.replace(batch, semantics=labels, mask_camera=torch.ones(labels.shape, dtype=torch.bool))
    network = TpvFormer(tiny(prototype_mapping=True)).train()
    losses = take_steps(network, batch, 150, 1e-2)
    assert losses[-1] < 0.1 * losses[0]
    agree = network.eval().predict(batch) == labels
    assert agree.float().mean() > 0.98
