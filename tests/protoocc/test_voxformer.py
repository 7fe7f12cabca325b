"""VoxFormer: the fold, what the layers change, the switches, and that it can learn a scene by heart."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from protoocc.hosts import build_network
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model.parts_config import UpsampleStage
from protoocc.model.voxformer import VoxFormer, VoxFormerConfig
from protoocc.model.voxformer.fold import FoldedPositions, fold, fold_shape, unfold
from protoocc.model.voxformer.header import TrilinearHeader
from schemas.classes import OCC3D
from schemas.errors import DataError
from tests.protoocc.small_scene import GRID, scene, take_steps

PARTS = {"prototype_mapping": True, "prototype_optimisation": True, "multi_perspective": True}


def tiny(**changes: Any) -> VoxFormerConfig:
    fields: dict[str, Any] = {
        "grid": GRID,
        "num_classes": 18,
        "free": 17,
        "backbone": "resnet18",
        "backbone_width": 8,
        "channels": 16,
        "query_shape": (4, 4, 2),
        "cross_layers": 2,
        "self_layers": 1,
        "heads": 4,
        "points": 2,
        "ffn_channels": 32,
        "layer_dropout": 0.0,
        "upsample": (UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=8),),
        "classifier_channels": 8,
    }
    return VoxFormerConfig(**fields | changes)


def build(config: VoxFormerConfig) -> VoxFormer:
    torch.manual_seed(0)
    network = build_network(config)
    assert isinstance(network, VoxFormer)
    return network


@pytest.mark.parametrize(
    ("shape", "expected"), [((128, 128, 16), (512, 512)), ((64, 64, 8), (128, 256)), ((50, 50, 16), (250, 160))]
)
def test_fold_has_the_published_shapes(shape: tuple[int, int, int], expected: tuple[int, int]) -> None:
    assert fold_shape(shape) == expected


@pytest.mark.parametrize(("shape", "rows_per_x"), [((128, 128, 16), 4), ((64, 64, 8), 2)])
def test_fold_puts_a_voxel_where_the_design_notes_say(shape: tuple[int, int, int], rows_per_x: int) -> None:
    h, w, z = shape
    index = torch.arange(h * w * z).view(1, h, w, z, 1)
    image = fold(index.double())[0, :, :, 0].long()
    x, y, height = torch.meshgrid(torch.arange(h), torch.arange(w), torch.arange(z), indexing="ij")
    row, column = rows_per_x * x + y.div(32, rounding_mode="floor"), (y % 32) * z + height
    assert torch.equal(image[row, column], index[0, ..., 0])
    assert torch.equal(unfold(fold(index.double()), shape), index.double())


def test_position_of_a_cell_is_its_column_and_its_row() -> None:
    positions = FoldedPositions((4, 4, 2), 6)
    rows, columns = fold_shape((4, 4, 2))
    image = positions()
    assert image.shape == (rows, columns, 6)
    assert torch.equal(image[1, 3], torch.cat([positions.columns[3], positions.rows[1]]))


def test_only_proposed_queries_change_before_self_attention() -> None:
    network, batch = build(tiny()), scene(samples=2)
    with torch.no_grad():
        network.voxel_queries.mask_token.fill_(0.25)
        seeds = network.seed(batch)
        proposed = network.propose(batch)
    assert 0 < proposed.sum() < proposed.numel()
    assert (seeds.queries[~proposed] == 0.25).all()
    assert not (seeds.queries[proposed] == 0.25).any(-1).all()
    start = network.voxel_queries.table.expand(2, -1, -1, -1, -1)
    assert (seeds.queries[proposed] != start[proposed]).any(-1).all()


def test_proposed_queries_read_nothing_of_the_mask_token_and_the_images_reach_the_others_by_self_attention() -> None:
    network, batch = build(tiny()).eval(), scene()
    other = dataclasses.replace(batch, images=255 - batch.images)
    proposed = network.propose(batch)
    with torch.no_grad():
        before, after = network.seed(batch).queries, network.seed(other).queries
        spread = network.spread(before) - network.spread(after)
    assert (before[proposed] != after[proposed]).any()
    assert torch.equal(before[~proposed], after[~proposed])
    assert (spread[~proposed] != 0).any()


def test_attention_of_a_layer_sees_only_hits_of_proposed_queries() -> None:
    network, batch = build(tiny()).eval(), scene()
    seeds = network.seed(batch)
    proposed = network.propose(batch).flatten().nonzero().squeeze(1)
    every = network.find_hits((32, 64), batch.image_from_camera, batch.camera_from_ego)
    expected = [row for row in every.row.tolist() if row in set(proposed.tolist())]
    assert proposed[seeds.hits.row].tolist() == expected
    assert sum(seeds.hits.counts) == len(expected) > 0
    assert seeds.hits.counts[1] == 0  # the wall stands before the first camera


def test_header_is_torch_trilinear_upsampling_then_norm_and_linear() -> None:
    config = tiny()
    torch.manual_seed(0)
    header, queries = TrilinearHeader(config), torch.randn(2, 4, 4, 2, 16)
    up = torch.nn.functional.interpolate(
        queries.movedim(-1, 1), size=GRID.shape, mode="trilinear", align_corners=True
    ).movedim(1, -1)
    expected = header.label(header.norm(up)).flatten(0, 3)
    voxels = torch.tensor([511, 0, 17, 256, 255, 300])
    torch.testing.assert_close(header(queries, voxels, at_once=2), expected[voxels], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_switches_add_their_parts_and_nothing_else(mapping: bool, views: bool) -> None:
    plain = {name for name, _ in build(tiny()).named_parameters()}
    config = tiny(prototype_mapping=mapping, prototype_optimisation=mapping, multi_perspective=views)
    network, batch = build(config).train(), scene(samples=2)
    added = {name for name, _ in network.named_parameters()} - plain
    removed = plain - {name for name, _ in network.named_parameters()}
    assert all((".mapping." in name or name.startswith("pixel_features.")) or "decoder." in name for name in added)
    assert any(".mapping." in name for name in added) == mapping
    assert any(name.startswith("decoder.") for name in added) == views
    assert all(name.startswith("header.") for name in removed) and bool(removed) == views
    output = network(batch, torch.arange(100, 412))
    assert output.logits.shape == (3 if views else 1, 312, 18)
    assert (output.pixel_features is not None) == mapping
    if output.pixel_features is not None and output.pixel_seen is not None:
        assert output.pixel_features.shape == (2, 2, 2, 4, 16)
        assert output.pixel_seen[:, 0].any() and not output.pixel_seen[:, 1].any()


def test_all_losses_reach_all_parameters() -> None:
    network, batch = build(tiny(placed_queries=True, **PARTS)).train(), scene(samples=2)
    config = LossConfig()
    choice = choose_voxels(batch, config, OCC3D)
    compute_losses(network(batch, choice.all), batch, choice, config)["total"].backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert all("cross_attention.offsets" in name or "cross_attention.weights" in name for name in without), without


def test_samples_of_a_batch_do_not_meet() -> None:
    network = build(tiny(**PARTS)).eval()
    both = scene(samples=2, seed=3)
    one = dataclasses.replace(
        both, **{f.name: v[1:] for f in dataclasses.fields(both) if (v := getattr(both, f.name)) is not None}
    )
    with torch.no_grad():
        torch.testing.assert_close(network(both).logits[:, 256:], network(one).logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(network.predict(both)[1], network.predict(one)[0])


def test_recomputation_gives_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        network, batch = build(tiny(recompute=recompute, **PARTS)), scene()
        network(batch).logits[0].square().mean().backward()
        gradients.append(network.voxel_queries.table.grad)
    torch.testing.assert_close(*gradients)


def test_every_query_is_proposed_without_depth_where_the_settings_say_so() -> None:
    batch = dataclasses.replace(scene(), input_depth_m=None)
    assert build(tiny(proposals="all")).propose(batch).all()
    with pytest.raises(DataError, match="token-0.*pack --depth"):
        build(tiny()).propose(batch)


def test_a_scene_without_any_proposal_is_predicted() -> None:
    batch = dataclasses.replace(scene(), input_depth_m=torch.zeros(1, 2, 32, 64))
    output = build(tiny(**PARTS)).train()(batch)
    assert output.logits.isfinite().all()
    assert output.pixel_seen is not None and not output.pixel_seen.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_shape": (3, 4, 2)}, "must divide the grid"),
        ({"query_shape": (2, 2, 2), "multi_perspective": True}, r"the grid is \(8, 8, 4\)"),
        ({"frames": 2}, "reads one frame"),
        ({"heads": 5}, "multiple of heads"),
        ({"clustering_stride": 8}, "not one of strides"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, PARTS])
def test_learns_a_scene_by_heart(parts: dict[str, bool]) -> None:
    network, batch = build(tiny(placed_queries=True, **parts)).train(), scene()
    take_steps(network, batch, 150, 1e-2)
    assert batch.semantics is not None
    assert (network.eval().predict(batch) == batch.semantics).float().mean() > 0.98
