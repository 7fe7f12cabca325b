"""Multi-perspective decoding: the shared upsampling, augmentations and their inverses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from protoocc.model import ProtoOccConfig, UpsampleStage
from protoocc.model.config import Augmentation
from protoocc.model.decoder import SPATIAL, Decoder, Upsample, augment, undo
from schemas.geometry import VoxelGrid


def decoder_config(
    augmentations: tuple[Augmentation, ...], *, kernel: tuple[int, int, int] = (2, 2, 3)
) -> ProtoOccConfig:
    """Queries of (3, 3, 2) and a grid of (6, 6, 6)."""
    return ProtoOccConfig(
        grid=VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(6, 6, 6)),
        query_shape=(3, 3, 2),
        channels=8,
        heads=2,
        augmentations=augmentations,
        dropout=0.0,
        noise=0.0,
        num_classes=4,
        upsample=(UpsampleStage(kernel=kernel, stride=(2, 2, 3), channels=5),),
    )


@pytest.mark.parametrize("name", SPATIAL)
def test_spatial_augmentation_is_undone_exactly(name: Augmentation) -> None:
    """Augmenting a volume and undoing it gives the very same numbers; the augmentation does move something."""
    volume = torch.randn(4, 4, 3)
    moved = augment(volume[None, ..., None], name, dropout=0.5, noise=1.0)[0, ..., 0]
    assert not torch.equal(moved, volume)
    assert torch.equal(undo(moved, name), volume)


def test_feature_augmentations() -> None:
    """Dropout zeroes a share p and scales the rest by 1 / (1 - p); noise has the given deviation."""
    torch.manual_seed(0)
    ones = torch.ones(1, 20, 20, 5, 10)
    dropped = augment(ones, "dropout", dropout=0.2, noise=0.0)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1.25]))
    assert abs(float((dropped == 0).float().mean()) - 0.2) < 0.01
    noisy = augment(ones, "gaussian", dropout=0.0, noise=0.3) - ones
    assert abs(float(noisy.std()) - 0.3) < 0.01


@pytest.mark.parametrize("stride", [(2, 2, 3), (1, 2, 1), (4, 4, 4)])
def test_product_equals_transposed_convolution(stride: tuple[int, int, int]) -> None:
    """The matrix products of kernel = stride are torch's ConvTranspose3d, at every voxel and at a few."""
    upsample = Upsample(4, (UpsampleStage(kernel=stride, stride=stride, channels=3),))
    nn.init.normal_(upsample.stages[0].bias)
    queries = torch.randn(2, 3, 2, 2, 4)
    expected = upsample.stages[0](queries.movedim(-1, 1)).movedim(1, -1).flatten(0, 3)
    everything = torch.arange(len(expected))
    torch.testing.assert_close(upsample(queries, everything), expected)
    few = torch.tensor([5, 0, len(expected) - 1, 5])
    torch.testing.assert_close(upsample(queries, few), expected[few])


def test_two_stages_reach_the_grid() -> None:
    """Small's z is kept, Tiny's z grows fourfold: kernel 4 stride 2 twice."""
    stages = (UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=6),) * 2
    upsample = Upsample(4, stages)
    assert upsample(torch.randn(1, 2, 3, 1, 4), torch.arange(8 * 12 * 4)).shape == (8 * 12 * 4, 6)


@pytest.mark.parametrize("kernel", [(2, 2, 3), (4, 4, 3)])
def test_chosen_voxels_equal_the_full_volume(kernel: tuple[int, int, int]) -> None:
    """Classifying a few voxels of two samples gives what classifying all of them gives there."""
    decoder = Decoder(decoder_config((), kernel=kernel)).eval()
    queries = torch.randn(2, 3, 3, 2, 8)
    voxels = torch.tensor([431, 0, 215, 216, 17])
    torch.testing.assert_close(decoder(queries, voxels), decoder(queries)[:, voxels])


def test_views_without_strength_equal_the_original() -> None:
    """Dropout 0 and noise 0 are no augmentation: all views agree with view 0."""
    decoder = Decoder(decoder_config(("dropout", "gaussian"))).train()
    logits = decoder(torch.randn(2, 3, 3, 2, 8))
    assert logits.shape == (3, 432, 4)
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(logits[2], logits[0])


@pytest.mark.parametrize("name", SPATIAL)
def test_spatial_view_comes_back_to_its_place(name: Augmentation) -> None:
    """A kernel that is the same at all places commutes with every flip: the view must equal the original."""
    decoder = Decoder(decoder_config((name,))).train()
    layer = decoder.upsample.stages[0]
    with torch.no_grad():
        layer.weight.copy_(layer.weight[..., :1, :1, :1].expand_as(layer.weight))
    logits = decoder(torch.randn(2, 3, 3, 2, 8))
    torch.testing.assert_close(logits[1], logits[0])


def test_spatial_view_sees_other_neighbours() -> None:
    """With a real kernel the flipped view is another perspective of the same scene."""
    decoder = Decoder(decoder_config(("flip_x",))).train()
    queries = torch.randn(1, 3, 3, 2, 8)
    logits = decoder(queries)
    flipped = decoder.eval()(queries.flip(1)).view(6, 6, 6, 4).flip(0).flatten(0, 2)
    torch.testing.assert_close(logits[1], flipped)
    assert not torch.allclose(logits[1], logits[0])


def test_evaluation_decodes_one_view_deterministically() -> None:
    """No augmentation outside training."""
    decoder = Decoder(decoder_config(("dropout", "flip_y"))).eval()
    queries = torch.randn(1, 3, 3, 2, 8)
    assert decoder(queries).shape == (1, 216, 4)
    assert torch.equal(decoder(queries), decoder(queries))


def test_untrained_classifier_knows_the_prior() -> None:
    """With zero weights the bias alone gives free space 0.8 and the three others 0.2 / 3."""
    decoder = Decoder(decoder_config(()))
    nn.init.zeros_(decoder.classifier[-1].weight)
    shares = decoder(torch.zeros(1, 3, 3, 2, 8), torch.tensor([0]))[0, 0].softmax(-1)
    torch.testing.assert_close(shares, torch.tensor([0.2 / 3] * 3 + [0.8]))
    assert math.isclose(float(shares.detach().sum()), 1.0, rel_tol=1e-6)
