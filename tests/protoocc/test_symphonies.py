"""Symphonies: what each part may change, its switches, its size, and that it can learn a scene by heart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from protoocc.batch import Batch
from protoocc.config import ScheduleConfig, TrainConfig
from protoocc.hosts import build_network
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model.parts_config import UpsampleStage
from protoocc.model.symphonies import Symphonies, SymphoniesConfig
from protoocc.model.symphonies import presets as sizes
from protoocc.optimizer import lr_factor, make_optimizer
from protoocc.presets import PRESETS
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from protoocc.weights.files import reread_weights
from protoocc.weights.fill import check_weights
from schemas.classes import OCC3D
from schemas.errors import DataError
from tests.protoocc.small_scene import GRID, scene, take_steps

PARTS = {"prototype_mapping": True, "prototype_optimisation": True, "head": "paper", "multi_perspective": True}
LOSS = LossConfig(lambda_sem_scal=1.0, lambda_geo_scal=1.0, lambda_frustum=1.0)


def tiny(**changes: Any) -> SymphoniesConfig:
    fields: dict[str, Any] = {
        "grid": GRID,
        "num_classes": 18,
        "free": 17,
        "backbone": "resnet18",
        "backbone_width": 8,
        "channels": 16,
        "pixel_decoder_layers": 1,
        "pixel_decoder_channels": 16,
        "pixel_decoder_ffn": 32,
        "query_shape": (4, 4, 2),
        "position_parts": (1, 1, 1),
        "instances": 5,
        "layers": 2,
        "heads": 4,
        "points": 2,
        "ffn_channels": 32,
        "prototype_cell": 2,
        "upsample": (UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=8),),
        "classifier_channels": 8,
    }
    return SymphoniesConfig(**fields | changes)


def build(config: SymphoniesConfig) -> Symphonies:
    torch.manual_seed(0)
    network = build_network(config)
    assert isinstance(network, Symphonies)
    return network


def seen_queries(network: Symphonies, batch: Batch) -> torch.Tensor:
    hits = network.find_hits((32, 64), batch.image_from_camera, batch.camera_from_ego)
    seen = torch.zeros(len(batch.tokens) * 32, dtype=torch.bool)
    seen[hits.row] = True
    return seen.view(-1, 4, 4, 2)


# --- what changes what


def test_queries_at_depth_look_first_then_all_in_view_change() -> None:
    """Proposed queries alone differ from their start before the layers; queries that no camera sees never change."""
    network, batch = build(tiny(dilations=())).eval(), scene(samples=2)
    with torch.no_grad():
        proposed, scenes = network.encode(batch, network.image_features(batch.images.flatten(0, 1)))
    start = network.scene_queries.expand(2, -1, -1, -1, -1)
    seen = seen_queries(network, batch)
    hits = network.find_hits((32, 64), batch.image_from_camera, batch.camera_from_ego)
    chosen = network.proposals(batch, hits)
    assert 0 < chosen.sum() < seen.sum() < seen.numel()
    assert torch.equal((proposed.scene != start).any(-1), chosen)
    assert torch.equal((scenes[0] != start).any(-1), seen)
    assert torch.equal(scenes[1][~seen], start.relu()[~seen])  # ReLU closes the last layer


def test_the_image_reaches_queries_behind_no_depth_by_instances_alone() -> None:
    """Without any depth no query looks at the images, yet another image changes all queries in view."""
    network, batch = build(tiny()).eval(), dataclasses.replace(scene(), input_depth_m=torch.zeros(1, 2, 32, 64))
    other = dataclasses.replace(batch, images=255 - batch.images)
    with torch.no_grad():
        before, after = (network.encode(b, network.image_features(b.images.flatten(0, 1))) for b in (batch, other))
    assert torch.equal(before[0].scene, after[0].scene)
    seen = seen_queries(network, batch)
    assert torch.equal((before[1][0] != after[1][0]).any(-1), seen)


def test_prototypes_reach_all_queries_in_view_before_proposed_ones_look() -> None:
    network, batch = build(tiny(**PARTS)).eval(), dataclasses.replace(scene(), input_depth_m=torch.zeros(1, 2, 32, 64))
    with torch.no_grad():
        proposed, _ = network.encode(batch, network.image_features(batch.images.flatten(0, 1)))
    changed = (proposed.scene != network.scene_queries).any(-1)
    assert torch.equal(changed, seen_queries(network, batch))


def test_samples_of_a_batch_do_not_meet() -> None:
    network, both = build(tiny(**PARTS)).eval(), scene(samples=2, seed=3)
    one = dataclasses.replace(
        both, **{f.name: v[1:] for f in dataclasses.fields(both) if (v := getattr(both, f.name)) is not None}
    )
    with torch.no_grad():
        torch.testing.assert_close(network(both).logits[:, 256:], network(one).logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(network.predict(both)[1], network.predict(one)[0])


def test_order_of_cameras_means_nothing() -> None:
    network, batch = build(tiny(**PARTS)).eval(), scene(seed=4)
    names = ("images", "image_from_camera", "camera_from_ego", "input_depth_m")
    turned = dataclasses.replace(batch, **{name: getattr(batch, name).flip(1) for name in names})
    with torch.no_grad():
        torch.testing.assert_close(network(batch).logits, network(turned).logits, rtol=1e-4, atol=1e-5)


# --- switches and outputs


def test_earlier_layers_are_decoded_in_training_alone() -> None:
    network, batch, voxels = build(tiny()).train(), scene(), torch.arange(20, 90)
    output = network(batch, voxels)
    assert [tuple(logits.shape) for logits in output.auxiliary] == [(70, 18)]
    assert not network.eval()(batch, voxels).auxiliary
    assert not build(tiny(auxiliary=False)).train()(batch, voxels).auxiliary
    with torch.no_grad():
        _, scenes = network.encode(batch, network.image_features(batch.images.flatten(0, 1)))
        torch.testing.assert_close(network(batch, voxels).logits[0], network.decode_once(scenes[-1], voxels))


@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_switches_add_their_parts_and_nothing_else(mapping: bool, views: bool) -> None:
    plain = {name for name, _ in build(tiny()).named_parameters()}
    head = {"head": "paper", "multi_perspective": True} if views else {}
    network = build(tiny(prototype_mapping=mapping, prototype_optimisation=mapping, **head)).train()
    own = {name for name, _ in network.named_parameters()}
    assert {name.partition(".")[0] for name in own - plain} == (
        ({"mapping", "pixel_features"} if mapping else set()) | ({"head"} if views else set())
    )
    assert {name.partition(".")[0] for name in plain - own} == ({"head"} if views else set())
    output = network(scene(samples=2), torch.arange(100, 412))
    assert output.logits.shape == (3 if views else 1, 312, 18)
    assert (output.pixel_features is not None) == mapping
    if output.pixel_features is not None and output.pixel_seen is not None:
        assert output.pixel_features.shape == (2, 2, 4, 8, 16)
        assert output.pixel_seen[:, 0].any() and not output.pixel_seen[:, 1].any()  # the wall is in front


@pytest.mark.parametrize("parts", [{}, PARTS, {"proposals": "all"}, {"pixel_decoder_layers": 0}])
def test_all_losses_reach_all_parameters(parts: dict[str, Any]) -> None:
    """Once offsets and weights of the attentions, which start at zero, depend on what looks."""
    network, batch = build(tiny(**parts)).train(), scene(samples=2)
    for name, value in network.named_parameters():
        if "attention.offsets.weight" in name or "attention.weights.weight" in name:
            torch.nn.init.normal_(value, std=0.05)
    choice = choose_voxels(batch, LOSS, OCC3D)
    compute_losses(network(batch, choice.all), batch, choice, LOSS, network.config)["total"].backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not without


def test_recomputation_gives_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        network, batch = build(tiny(recompute=recompute, **PARTS)), scene()
        network(batch).logits[0].square().mean().backward()
        gradients.append(network.scene_queries.grad)
    torch.testing.assert_close(*gradients)


def test_depth_is_needed_where_the_settings_say_so() -> None:
    batch = dataclasses.replace(scene(), input_depth_m=None)
    assert tiny().reads_depth and not tiny(proposals="all").reads_depth
    network = build(tiny(proposals="all"))
    hits = network.find_hits((32, 64), batch.image_from_camera, batch.camera_from_ego)
    assert torch.equal(network.proposals(batch, hits), seen_queries(network, batch))
    assert network.eval().predict(batch).shape == (1, *GRID.shape)
    with pytest.raises(DataError, match="token-0.*pack --depth"):
        build(tiny())(batch)


def test_a_scene_without_any_proposal_is_predicted() -> None:
    batch = dataclasses.replace(scene(), input_depth_m=torch.zeros(1, 2, 32, 64))
    output = build(tiny(**PARTS)).train()(batch)
    assert output.logits.isfinite().all()
    assert output.pixel_seen is not None and not output.pixel_seen.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_shape": (3, 4, 2)}, "head 'own' doubles"),
        ({"query_shape": (4, 4, 4)}, "head 'own' doubles"),
        ({"query_shape": (2, 2, 2), "head": "paper"}, r"the grid is \(8, 8, 4\)"),
        ({"position_parts": (2, 2, 1)}, "multiple of the 4 parts"),
        ({"multi_perspective": True}, "needs head 'paper'"),
        ({"frames": 2}, "reads one frame"),
        ({"heads": 5}, "multiple of"),
        ({"strides": (4, 8, 16, 32, 64)}, "the backbone 4"),
        ({"clustering_stride": 32}, "not one of strides"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_norms_without_statistics_are_no_start() -> None:
    assert "frozen_norms" in " ".join(sizes.symphonies().obstacles(has_masks=True, has_weights=False))
    assert not sizes.symphonies().obstacles(has_masks=True, has_weights=True)


# --- size and training as published


def count(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def test_size_is_that_of_the_public_configuration() -> None:
    """Each part from the sizes of the public configuration; what it builds and never uses is left out."""
    with torch.device("meta"):
        network = build_network(sizes.symphonies())
    found: dict[str, int] = {}
    for name, value in network.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith("image") else 1])
        found[part] = found.get(part, 0) + value.numel()
    norm, pixel_norm, feed_forward = 2 * 128, 2 * 256, linear(128, 512) + linear(512, 128)

    def deformable(d: int, levels: int, points: int) -> int:
        return linear(d, 8 * levels * points * 2) + linear(d, 8 * levels * points) + 2 * linear(d, d)

    attention = linear(128, 3 * 128) + linear(128, 128)
    image = norm + deformable(128, 3, 4) + norm + feed_forward
    scene_read = norm + deformable(128, 1, 8) + norm + feed_forward
    gather, share = norm + deformable(128, 1, 8), norm + attention + norm + feed_forward
    layer = deformable(256, 4, 4) + 2 * pixel_norm + linear(256, 2048) + linear(2048, 256)
    entry = sum(linear(inputs, 256) + pixel_norm for inputs in (512, 1024, 2048, 9 * 2048))
    assert found == {
        "image_features.resnet": 23_508_032,  # torchvision's ResNet-50 without its classifier
        "image_features.project": entry,
        "image_features.scale_embedding": 4 * 256,
        "image_features.layers": 6 * layer,
        "image_features.narrow": 3 * (linear(256, 128) + norm + linear(128, 128)),
        "scene_queries": 128 * 128 * 8 * 128,
        "positions": (256 + 256 + 2) * 64 + linear(192, 128),
        "instances": 100 * 128 + 100 * 2,
        "proposal": image,
        "layers": 3 * (image + norm + attention + scene_read) + 2 * (gather + share),
        "dilated": 4 * (27 * 128 * 128 + norm),
        "head": 2 * (27 * 128 * 128 + 128 + norm) + linear(128, 20),
    }
    unused = linear(256, 256) + (256 * 256 + pixel_norm) + (9 * 256 * 256 + pixel_norm)  # the branch of masks
    assert count(network) == 58_587_868 and count(network) + unused == 59_310_044


def test_sizes_of_the_paper() -> None:
    """Base has twice the published queries and no height-only stage; Small a quarter of Base's rows and columns."""
    with torch.device("meta"):
        base, small = (build_network(config()) for config in (sizes.symphonies_base, sizes.symphonies_small))
        base_parts, small_parts = (
            build_network(sizes.with_parts(config())) for config in (sizes.symphonies_base, sizes.symphonies_small)
        )
    stage = 27 * 128 * 128 + 3 * 128
    assert count(base) == 58_587_868 + 128 * 128 * 8 * 128 + 2 * 64 - stage
    assert count(small) == 58_587_868 - (128 * 128 - 64 * 64) * 8 * 128 - 2 * 128 * 64
    added = 3 * linear(128, 128) + 4
    own = stage + linear(128, 20)
    classifier = linear(32, 32) + linear(32, 20)
    assert count(base_parts) == count(base) - own + added + 64 * 128 * 32 + 32 + classifier
    wide = 64 * 128 * 128 + 3 * 128
    assert count(small_parts) == count(small) - own - stage + added + wide + 64 * 128 * 32 + 32 + classifier


def test_rates_are_the_published_ones() -> None:
    """The whole image network but its last convolutions learns a tenth as fast; all of it from epoch 25 of 30 on."""
    schedule = PRESETS["symphonies-base"]().schedule
    assert [lr_factor(step, 300, schedule) for step in (0, 249, 250, 299)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    network = build(tiny())
    optimizer = make_optimizer(network, PRESETS["symphonies-base"]().optimizer)
    assert optimizer.defaults["eps"] == 1e-3
    slow = {id(value) for group in optimizer.param_groups if group["lr_factor"] == 0.1 for value in group["params"]}
    names = {name for name, value in network.named_parameters() if id(value) in slow}
    expected = {name for name, _ in network.named_parameters() if name.startswith("image_features.")}
    assert names == {name for name in expected if ".narrow." not in name}


def test_trainer_reads_depth_and_steps(depth_shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """Points of packed shards reach the network; losses of scenes and earlier layers are in the metrics."""
    network = tiny(frozen_norms=False, **PARTS)
    changes = {"model": network, "loss": LOSS, "schedule": ScheduleConfig(steps=2, warmup_steps=0, drops=(0.5,))}
    train(tiny_config.model_copy(update=changes), depth_shards, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert {"sem_scal", "geo_scal", "frustum", "auxiliary", "cls", "cons"} <= rows[0].keys()
    assert rows[1]["lr"] == pytest.approx(rows[0]["lr"] / 10)


def test_demo_starts_from_the_shipped_features() -> None:
    """All image features of the small network, whose classes are not those that the features were trained with."""
    config = PRESETS["symphonies-demo-protoocc"]()
    assert config.weights is not None
    report = check_weights(config.model, reread_weights(config.weights))
    assert report.share("backbone") == report.share("pyramid") == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, PARTS])
def test_learns_a_scene_by_heart(parts: dict[str, Any]) -> None:
    network, batch = build(tiny(**parts)).train(), scene()
    take_steps(network, batch, 150, 5e-3, LOSS)
    assert batch.semantics is not None
    assert (network.eval().predict(batch) == batch.semantics).float().mean() > 0.98
