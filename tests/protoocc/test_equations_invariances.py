"""What must not matter: names of masks, order of cameras, neighbours in the batch, blind cameras. All in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from protoocc.batch import stack_batches
from protoocc.config import TrainConfig
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model import ProtoOcc, ProtoOccConfig
from schemas.classes import OCC3D
from tests.protoocc.reference.arithmetic import assert_agrees
from tests.protoocc.reference.network import PARTS, assert_close, make_network, record, train_step
from tests.protoocc.reference.rigs import look_along, look_away, random_batch, with_cameras, with_poses


@pytest.fixture(scope="module")
def config(make_tiny_config: Callable[[], TrainConfig]) -> ProtoOccConfig:
    """All parts of the paper, two layers."""
    return make_tiny_config().model.model_copy(update={"encoder_layers": 2})


@pytest.fixture
def network(config: ProtoOccConfig) -> ProtoOcc:
    """In evaluation mode."""
    return make_network(config)


def test_names_of_masks_mean_nothing(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """Every image renames its masks in its own way: the same losses, the same gradients."""
    batch = random_batch(config.grid, samples=2)
    assert batch.segment_id is not None
    renamed = batch.segment_id.clone()
    for sample in range(2):
        for camera in range(3):
            names = torch.randperm(60000, generator=torch.Generator().manual_seed(10 * sample + camera))[:6]
            renamed[sample, camera] = names[batch.segment_id[sample, camera]]
    _, losses, gradients = train_step(network, batch)
    _, other_losses, other_gradients = train_step(network, dataclasses.replace(batch, segment_id=renamed))
    assert losses["cls"] > 0
    for name in PARTS:
        assert_close(losses[name], other_losses[name])
    for one, other in zip(gradients, other_gradients, strict=True):
        assert_close(one, other)


def test_order_of_cameras_means_nothing(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """Cameras permuted with calibration and masks: the same logits, losses and gradients, X permuted alike."""
    batch, order = random_batch(config.grid, samples=2), [2, 0, 1]
    output, losses, gradients = train_step(network, batch)
    other, other_losses, other_gradients = train_step(make_network(config), with_cameras(batch, order))
    assert_close(output.logits, other.logits)
    assert output.pixel_features is not None and output.pixel_seen is not None and other.pixel_seen is not None
    assert_close(output.pixel_features[:, order], other.pixel_features)
    assert torch.equal(output.pixel_seen[:, order], other.pixel_seen)
    for name in PARTS:
        assert_close(losses[name], other_losses[name])
    for one, another in zip(gradients, other_gradients, strict=True):
        assert_close(one, another)


def test_views_without_strength(config: ProtoOccConfig) -> None:
    """Nothing dropped, no noise: three views cost three times the supervised losses of one, and the same mask loss."""
    batch = random_batch(config.grid)
    still = config.model_copy(update={"dropout": 0.0, "noise": 0.0})
    output, losses, _ = train_step(make_network(still), batch)
    alone, single, _ = train_step(make_network(still.model_copy(update={"multi_perspective": False})), batch)
    assert len(output.logits) == 3 and len(alone.logits) == 1
    for view in output.logits:
        assert_close(view, alone.logits[0])
    assert_close(losses["ce"], 3.0 * single["ce"])
    assert_close(losses["lovasz"], 3.0 * single["lovasz"])
    assert_close(losses["cls"], single["cls"])
    assert single["cons"] == 0 < losses["cons"]  # even equal views are asked to be sharper


@torch.no_grad()
def test_batch_of_different_rigs(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """Rigs of other poses, focal lengths and numbers of hits, one with a blind camera, one that sees nothing at all."""
    samples = [random_batch(config.grid, seed=seed) for seed in range(4)]
    samples[1] = dataclasses.replace(samples[1], image_from_camera=samples[1].image_from_camera.clone())
    samples[1].image_from_camera[..., :2, :2] *= 0.5
    samples[2] = with_poses(samples[2], {1: look_away()})
    samples[3] = with_poses(samples[3], dict.fromkeys(range(3), look_away()))
    together = network(stack_batches(samples))
    logits = together.logits.unflatten(1, (4, -1))
    for number, sample in enumerate(samples):
        alone = network(sample)
        assert_close(logits[:, number], alone.logits)
        assert_close(together.pixel_features[number], alone.pixel_features[0])
        assert torch.equal(together.pixel_seen[number], alone.pixel_seen[0])
    assert together.pixel_seen.flatten(2).any(-1).tolist() == [[True] * 3, [True] * 3, [True, False, True], [False] * 3]


@torch.no_grad()
def test_camera_that_sees_nothing_is_no_camera(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """A rig with a blind camera equals the rig without it; its X is zero and unseen, its masks cost nothing."""
    batch = with_poses(random_batch(config.grid), {1: look_away()})
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    less = with_cameras(batch, [0, 2])
    one, other = network(batch, choice.all), network(less, choice.all)
    assert_close(one.logits, other.logits)
    assert_close(one.pixel_features[:, [0, 2]], other.pixel_features)
    assert not one.pixel_features[:, 1].any() and not one.pixel_seen[:, 1].any()
    losses, other_losses = (
        compute_losses(one, batch, choice, LossConfig()),
        compute_losses(other, less, choice, LossConfig()),
    )
    for name in PARTS:
        assert_close(losses[name], other_losses[name])


def test_all_queries_behind_all_cameras(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """Cameras ahead of the whole grid: images have no say, the mask loss is zero, all gradients are finite."""
    ahead = look_along(0.0)
    ahead[2, 3] = -100.0
    batch = with_poses(random_batch(config.grid), dict.fromkeys(range(3), ahead))
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(batch).logits, network(dataclasses.replace(batch, images=255 - batch.images)).logits)
    _, losses, gradients = train_step(network, batch)
    assert losses["cls"] == 0 < losses["ce"]
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    images = [network.image_features.resnet.conv1.weight]
    (reached,) = torch.autograd.grad(network(batch).logits.sum(), images, allow_unused=True)
    assert reached is None or not reached.any()


def test_mask_that_covers_no_cell(network: ProtoOcc, config: ProtoOccConfig) -> None:
    """Pixels between the centres of the cells may get masks of their own: the losses are the same bits."""
    batch = random_batch(config.grid)
    assert batch.segment_id is not None
    speckled = batch.segment_id.clone()
    speckled[..., ::8, ::8], speckled[..., 3::8, 5::8] = 777, 888
    _, losses, _ = train_step(network, batch)
    _, other, _ = train_step(network, dataclasses.replace(batch, segment_id=speckled))
    assert all(torch.equal(losses[name], other[name]) for name in PARTS)


def test_one_prototype(config: ProtoOccConfig) -> None:
    """A cell as large as the image: one prototype, so X of a camera has one direction, and masks cannot differ.

    With a cosine of 1 to every mask, L_cls is the logarithm of the number of masks among the seen cells.
    """
    network = make_network(config.model_copy(update={"prototype_cell": 64}))
    batch = random_batch(config.grid)
    calls = record(network.encoder.layers[-1].mapping)
    output, losses, gradients = train_step(network, batch)
    assert [call[0][0].shape[:2] for call in calls] == [(3, 1)]
    assert output.pixel_features is not None and output.pixel_seen is not None and batch.segment_id is not None
    expected, cells = 0.0, 0
    for camera in range(3):
        masks = [
            int(batch.segment_id[0, camera, 8 * row + 4, 8 * column + 4])
            for row, column in output.pixel_seen[0, camera].nonzero().tolist()
            if 8 * row + 4 < 40 and 8 * column + 4 < 70
        ]
        expected += len(masks) * float(torch.tensor(len(set(masks)), dtype=torch.float64).log())
        cells += len(masks)
    assert_agrees(losses["cls"], expected / cells)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
