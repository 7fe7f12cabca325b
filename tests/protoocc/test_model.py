"""The whole network: sizes of the presets, gradients, invariances, borders."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from pydantic import ValidationError

from protoocc.batch import Batch, stack_batches
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model import (
    ProtoOcc,
    ProtoOccConfig,
    UpsampleStage,
    bevformer_base,
    bevformer_small,
    bevformer_tiny,
    demo,
    panoocc_small,
    protoocc_base,
    protoocc_mini,
    protoocc_small,
    protoocc_tiny,
)
from protoocc.model.backbone import ImageFeatures, ResNet, padded_size
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.geometry import VoxelGrid

YAWS_RAD = (0.0, 2.1, -2.1)


def tiny_model(**changes: object) -> ProtoOccConfig:
    """All parts of the paper in a network that runs in milliseconds."""
    fields: dict[str, object] = {
        "num_classes": 18,
        "grid": VoxelGrid(minimum_m=(-8.0, -8.0, -1.0), voxel_size_m=1.0, shape=(16, 16, 4)),
        "backbone": "resnet18",
        "backbone_width": 8,
        "strides": (8, 16),
        "channels": 16,
        "query_shape": (8, 8, 2),
        "encoder_layers": 2,
        "heads": 2,
        "points": 2,
        "ffn_channels": 32,
        "prototype_cell": 2,
        "upsample": (UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=8),),
        "classifier_channels": 8,
    }
    return ProtoOccConfig.model_validate({**fields, **changes})


def make_batch(seed: int = 0, focal_px: float = 40.0) -> Batch:
    """Three cameras around the car, 40 x 70 pixels; colour follows the pseudo mask, labels are random."""
    generator = torch.Generator().manual_seed(seed)
    poses = []
    for yaw in torch.tensor(YAWS_RAD):
        pose = torch.zeros(4, 4)
        pose[0, :2] = torch.stack([yaw.sin(), -yaw.cos()])
        pose[1, 2], pose[1, 3] = -1.0, 1.5
        pose[2, :2] = torch.stack([yaw.cos(), yaw.sin()])
        pose[3, 3] = 1.0
        poses.append(pose)
    intrinsics = torch.tensor([[focal_px, 0, 35], [0, focal_px, 20], [0, 0, 1]])
    blocks = torch.randint(0, 6, (1, 3, 5, 9), generator=generator)
    segments = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :40, :70]
    colours = torch.randint(0, 200, (6, 3), generator=generator)[segments].permute(0, 1, 4, 2, 3)
    noise = torch.randint(0, 56, colours.shape, generator=generator)
    return Batch(
        images=(colours + noise).to(torch.uint8),
        image_from_camera=intrinsics.expand(1, 3, 3, 3),
        camera_from_ego=torch.stack(poses)[None],
        tokens=[f"token-{seed}"],
        segment_id=segments,
        semantics=torch.randint(0, 18, (1, 16, 16, 4), generator=generator),
        mask_camera=torch.rand(1, 16, 16, 4, generator=generator) < 0.5,
        mask_lidar=torch.rand(1, 16, 16, 4, generator=generator) < 0.5,
    )


@pytest.fixture(scope="module")
def network() -> ProtoOcc:
    """A small network with all parts, in evaluation mode."""
    torch.manual_seed(0)
    return ProtoOcc(tiny_model()).eval()


@pytest.mark.parametrize(
    ("config", "queries"),
    [
        (protoocc_base(), 160_000),
        (panoocc_small(), 40_000),
        (protoocc_small(), 40_000),
        (protoocc_tiny(), 10_000),
        (bevformer_base(), 40_000),
        (bevformer_small(), 10_000),
        (bevformer_tiny(), 2_500),
        (demo(), 2_500),
        (protoocc_mini(), 10_000),
    ],
)
def test_presets_build(config: ProtoOccConfig, queries: int) -> None:
    """Each preset builds at full size and reaches the Occ3D grid."""
    with torch.device("meta"):
        model = ProtoOcc(config)
    assert model.anchors_ego.flatten(0, 2).shape[0] == queries
    assert config.grid.shape == (200, 200, 16)


def test_backbone_takes_torchvision_weights() -> None:
    """Names and shapes are those of torchvision's ResNet-50 without its classifier."""
    with torch.device("meta"):
        ours, published = ResNet(ProtoOccConfig()).state_dict(), torchvision.models.resnet50().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in published.items() if not k.startswith("fc.")
    }


def test_feature_scales() -> None:
    """An image of 40 x 70 is padded to 64 x 96; stride 64 is every second cell of stride 32."""
    assert padded_size(432, 800) == (448, 800)
    features = ImageFeatures(tiny_model(strides=(4, 8, 16, 32, 64)))(torch.zeros(2, 3, 40, 70, dtype=torch.uint8))
    assert [tuple(f.shape) for f in features] == [(2, 16, 64 // s, -(-96 // s)) for s in (4, 8, 16, 32, 64)]


def test_padding_is_the_mean_colour() -> None:
    """An image of the mean colour gives the same features with and without padding, far from rounding."""
    torch.manual_seed(0)
    model = ImageFeatures(tiny_model()).eval()
    mean = model.mean.round().to(torch.uint8).expand(3, 64, 96)
    full, cut = model(mean[None]), model(mean[None, :, :40, :70])
    torch.testing.assert_close(full[0], cut[0], atol=0.02, rtol=0)


def test_forward_shapes(network: ProtoOcc) -> None:
    """One view in evaluation, P + 1 in training, X on the stride-8 grid of the padded image."""
    batch = make_batch()
    output = network(batch)
    assert output.logits.shape == (1, 16 * 16 * 4, 18)
    assert output.pixel_features is not None
    assert output.pixel_features.shape == (1, 3, 8, 12, 16)
    prediction = network.predict(batch)
    assert prediction.shape == (1, 16, 16, 4)
    assert torch.equal(prediction.flatten().long(), output.logits[0].argmax(-1))


def test_every_parameter_learns() -> None:
    """The second step with all four losses reaches every parameter with finite gradients.

    In the first one positions are out of reach: they enter through offsets and weights, whose matrices start at zero.
    """
    torch.manual_seed(0)
    model, batch = ProtoOcc(tiny_model()).train(), make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        choice = choose_voxels(batch, LossConfig(), OCC3D)
        losses = compute_losses(model(batch, choice.all), batch, choice, LossConfig())
        assert all(losses[name] > 0 for name in ("ce", "lovasz", "cls", "cons"))
        losses["total"].backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_mask_loss_trains_prototypes_and_backbone() -> None:
    """L_cls alone reaches the clustered features and the mapping, not the decoder."""
    torch.manual_seed(0)
    model, batch = ProtoOcc(tiny_model()).train(), make_batch()
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    compute_losses(model(batch, choice.all), batch, choice, LossConfig())["cls"].backward()
    last = model.encoder.layers[-1].mapping
    assert last.project.weight.grad.abs().sum() > 0
    assert model.image_features.resnet.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.decoder.parameters())


def test_images_reach_voxels_through_prototypes_alone() -> None:
    """Without image attention there is none of its weights, and what the voxels say still follows the images."""
    torch.manual_seed(0)
    model, batch = ProtoOcc(tiny_model(image_attention=False, prototype_optimisation=False)).eval(), make_batch(0)
    assert not any("cross_attention" in name for name, _ in model.named_parameters())
    seen, dark = model(batch), model(dataclasses.replace(batch, images=torch.zeros_like(batch.images)))
    assert (seen.logits - dark.logits).abs().max() > 1e-3


def test_camera_order_means_nothing(network: ProtoOcc) -> None:
    """Permuting the cameras with their calibration permutes X and changes no logit."""
    batch, order = make_batch(), [2, 0, 1]
    permuted = dataclasses.replace(
        batch,
        images=batch.images[:, order],
        image_from_camera=batch.image_from_camera[:, order],
        camera_from_ego=batch.camera_from_ego[:, order],
    )
    one, other = network(batch), network(permuted)
    torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.pixel_features[:, order], other.pixel_features, atol=1e-5, rtol=1e-5)


def test_batch_of_two_rigs_equals_each_alone(network: ProtoOcc) -> None:
    """Samples with other cameras and other numbers of hits do not touch each other."""
    first, second = make_batch(0, focal_px=40.0), make_batch(1, focal_px=90.0)
    both = network(stack_batches([first, second])).logits.view(2, -1, 18)
    torch.testing.assert_close(both[0], network(first).logits[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1], network(second).logits[0], atol=1e-5, rtol=1e-5)


def test_camera_that_sees_nothing() -> None:
    """A camera under the ground that looks down hits no query: X is unseen there, training goes on."""
    torch.manual_seed(0)
    model, batch = ProtoOcc(tiny_model()).train(), make_batch()
    poses = batch.camera_from_ego.clone()
    poses[0, 1] = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, -50], [0, 0, 0, 1]])
    blind = dataclasses.replace(batch, camera_from_ego=poses)
    choice = choose_voxels(blind, LossConfig(), OCC3D)
    output = model(blind, choice.all)
    assert output.pixel_seen is not None
    assert output.pixel_seen.any((2, 3)).tolist() == [[True, False, True]]
    losses = compute_losses(output, blind, choice, LossConfig())
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_camera_sees_anything(network: ProtoOcc) -> None:
    """The network still answers, from its queries alone, and the mask loss is zero."""
    batch = make_batch()
    away = dataclasses.replace(batch, camera_from_ego=batch.camera_from_ego * torch.tensor([1.0, 1, -1, 1])[:, None])
    away.camera_from_ego[..., 2, 3] = -100.0
    choice = choose_voxels(away, LossConfig(), OCC3D)
    losses = compute_losses(network(away, choice.all), away, choice, LossConfig())
    assert losses["cls"] == 0
    assert torch.isfinite(losses["total"])


def test_evaluation_is_deterministic(network: ProtoOcc) -> None:
    """Twice the same bits."""
    batch = make_batch()
    assert torch.equal(network(batch).logits, network(batch).logits)


def test_predict_refuses_training_mode() -> None:
    """Dropout and batch statistics would make the answer random."""
    with pytest.raises(RuntimeError, match="eval"):
        ProtoOcc(tiny_model()).train().predict(make_batch())


@pytest.mark.parametrize(
    "changes",
    [
        {"prototype_mapping": False, "prototype_optimisation": False},
        {"prototype_optimisation": False},
        {"image_attention": False, "prototype_optimisation": False},
        {"multi_perspective": False},
        {"augmentations": ("transpose", "flip_x", "flip_y")},
        {"backbone": "resnet50", "strides": (4, 8, 16, 32, 64)},
        {"query_shape": (4, 8, 4), "upsample": (UpsampleStage(kernel=(6, 4, 1), stride=(4, 2, 1), channels=8),)},
    ],
)
def test_switches(changes: dict[str, object]) -> None:
    """Each part of the paper can be left out, and other shapes run: one training step each."""
    torch.manual_seed(0)
    config = tiny_model(**changes)
    model, batch = ProtoOcc(config).train(), make_batch()
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    output = model(batch, choice.all)
    assert len(output.logits) == config.views
    assert (output.pixel_features is None) is (not config.prototype_optimisation)
    losses = compute_losses(output, batch, choice, LossConfig())
    assert (losses["cons"] > 0) == config.multi_perspective
    losses["total"].backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_shape": (8, 8, 3)}, "the grid is"),
        ({"strides": (8, 32)}, "neighbours"),
        ({"clustering_stride": 4}, "clustering_stride 4"),
        ({"heads": 3}, "multiple of heads"),
        ({"prototype_mapping": False}, "needs prototype_mapping"),
        ({"image_attention": False}, "need image_attention"),
        ({"image_attention": False, "prototype_optimisation": False, "depth_attention": True}, "need image_attention"),
        (
            {"image_attention": False, "prototype_optimisation": False, "prototype_mapping": False},
            "no query sees an image",
        ),
        ({"upsample": ({"kernel": (3, 2, 2), "stride": (2, 2, 2), "channels": 8},)}, "must exceed stride"),
        ({"colour": 1}, "Extra inputs"),
        (
            {
                "augmentations": ("transpose",),
                "query_shape": (8, 4, 2),
                "upsample": ({"kernel": (2, 4, 2), "stride": (2, 4, 2), "channels": 8},),
            },
            "'transpose' needs h = w",
        ),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str) -> None:
    """A setting that cannot work is refused with both values."""
    with pytest.raises(ValidationError, match=message):
        tiny_model(**changes)


def test_stack_refuses_unequal_samples() -> None:
    """Different image sizes or missing targets name the samples."""
    small = make_batch(1)
    assert small.segment_id is not None
    cut = dataclasses.replace(small, images=small.images[..., :32], segment_id=small.segment_id[..., :32])
    with pytest.raises(DataError, match=r"token-0.*token-1.*images"):
        stack_batches([make_batch(0), cut])
    with pytest.raises(DataError, match="token-1"):
        stack_batches([make_batch(0), dataclasses.replace(small, semantics=None)])
    with pytest.raises(DataError, match="zero samples"):
        stack_batches([])


@pytest.mark.slow
def test_memorises_two_keyframes() -> None:
    """150 steps on two keyframes whose labels follow a box of voxels: all four losses fall, most voxels are right."""
    torch.manual_seed(0)
    batches = [make_batch(0), make_batch(1)]
    for number, batch in enumerate(batches):
        labels = torch.full((1, 16, 16, 4), 17)
        labels[:, :, :, 0], labels[:, 3 * number : 3 * number + 4, 2:9, 1:3] = 11, 4
        batch.semantics.copy_(labels)
    model = ProtoOcc(tiny_model()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    config = LossConfig(lambda_cls=1.0)  # the masks are noise, which a mean loss of weight 0.1 is slow to learn
    history: list[dict[str, float]] = []
    for step in range(150):
        batch = batches[step % 2]
        choice = choose_voxels(batch, config, OCC3D)
        losses = compute_losses(model(batch, choice.all), batch, choice, config)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in ("ce", "lovasz", "cls", "cons"):
        first = sum(entry[name] for entry in history[:6])
        assert sum(entry[name] for entry in history[-6:]) < 0.8 * first, name
    model.eval()
    for batch in batches:
        right = model.predict(batch).long() == batch.semantics
        assert float(right[batch.mask_camera].float().mean()) > 0.97
