"""Views, shared upsampling and inverse augmentations against loops in float64; what is exact is tested bit by bit."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from protoocc.model import ProtoOccConfig, UpsampleStage
from protoocc.model.config import Augmentation
from protoocc.model.decoder import SPATIAL, Decoder, augment, undo
from schemas.geometry import VoxelGrid
from tests.protoocc.reference import decoding
from tests.protoocc.reference.arithmetic import assert_agrees, two_linears

PRODUCT = (UpsampleStage(kernel=(2, 2, 3), stride=(2, 2, 3), channels=3),)
OVERLAP = (UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=3),)
TWO_STAGES = (
    UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=4),
    UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=3),
)
STAGES = pytest.mark.parametrize("stages", [PRODUCT, OVERLAP, TWO_STAGES], ids=["product", "overlap", "two_stages"])


def make_decoder(stages: tuple[UpsampleStage, ...], augmentations: tuple[Augmentation, ...] = ()) -> Decoder:
    """Queries of (3, 3, 2) with 8 channels, 3 classes; in training mode, norms with stored statistics of their own."""
    shape = [3, 3, 2]
    for stage in stages:
        shape = [n * s for n, s in zip(shape, stage.stride, strict=True)]
    config = ProtoOccConfig(
        grid=VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(shape[0], shape[1], shape[2])),
        query_shape=(3, 3, 2),
        channels=8,
        heads=2,
        augmentations=augmentations,
        dropout=0.0,
        noise=0.0,
        num_classes=3,
        classifier_channels=4,
        upsample=stages,
    )
    torch.manual_seed(0)
    decoder = Decoder(config).double().train()
    layers, norms = stages_and_norms(decoder)
    for norm in norms:
        norm.eval()
        for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            nn.init.uniform_(part, 0.5, 1.5)
    for layer in layers:
        nn.init.normal_(layer.bias)
    return decoder


def stages_and_norms(decoder: Decoder) -> tuple[Any, Any]:
    """Transposed convolutions, and the norms between them; torch types neither."""
    return decoder.upsample.stages, decoder.upsample.norms


def make_queries(samples: int = 1) -> Tensor:
    return torch.randn(samples, 3, 3, 2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def as_volume(tensor: Tensor) -> decoding.Volume:
    """(x, y, z, channels) as a volume of the reference."""
    places = itertools.product(*(range(n) for n in tensor.shape[:3]))
    return {(x, y, z): tensor[x, y, z].tolist() for x, y, z in places}


def literal_logits(decoder: Decoder, queries: Tensor, augmentation: str) -> list[list[float]]:
    """Class logits of every voxel of one view of one sample: augment, upsample, undo, classify."""
    volume = decoding.augment(as_volume(queries), augmentation)
    layers, norms = stages_and_norms(decoder)
    for number, layer in enumerate(layers):
        if number:
            volume = decoding.norm_and_relu(volume, norms[number - 1])
        volume = decoding.transposed_convolution(volume, layer.weight.tolist(), layer.bias.tolist(), layer.stride)
    volume = decoding.undo(volume, augmentation)
    classify = two_linears(decoder.classifier)
    return [classify(volume[place]) for place in sorted(volume)]


@STAGES
def test_views(stages: tuple[UpsampleStage, ...]) -> None:
    """Original and three spatial views of a sample: entry n of every view is the same voxel of the scene."""
    decoder, queries = make_decoder(stages, SPATIAL), make_queries()
    expected = [literal_logits(decoder, queries[0], name) for name in ("none", *SPATIAL)]
    assert_agrees(decoder(queries), expected)


def test_chosen_voxels_of_two_samples() -> None:
    """A few voxels in any order, repeated ones included: the same numbers as all of them."""
    decoder, queries = make_decoder(OVERLAP, ("transpose", "flip_y")), make_queries(2)
    voxels = torch.tensor([143, 0, 72, 71, 5, 5, 100])
    expected = []
    for name in ("none", "transpose", "flip_y"):
        both = [literal_logits(decoder, sample, name) for sample in queries]
        expected.append([both[voxel // 72][voxel % 72] for voxel in voxels.tolist()])
    assert_agrees(decoder(queries, voxels), expected)


@pytest.mark.parametrize("stages", [PRODUCT, OVERLAP, pytest.param(TWO_STAGES, marks=pytest.mark.slow)])
def test_views_gradient(stages: tuple[UpsampleStage, ...]) -> None:
    """To the queries, through all views at a few voxels."""
    decoder = make_decoder(stages, ("transpose", "flip_x"))
    voxels = torch.tensor([0, 17, 40])
    assert gradcheck(lambda queries: decoder(queries, voxels), (make_queries().requires_grad_(),))


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inverse_is_exact(name: Augmentation, dtype: torch.dtype) -> None:
    """Augmenting and undoing move numbers and compute nothing: the same bits, at the places of the reference."""
    volume = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(2)).to(dtype)
    changed = augment(volume[None, ..., None], name, dropout=0.5, noise=1.0)[0, ..., 0]
    assert as_volume(changed[..., None]) == decoding.augment(as_volume(volume[..., None]), name)
    assert not torch.equal(changed, volume)
    assert torch.equal(undo(changed, name), volume)


@torch.no_grad()
@pytest.mark.parametrize("name", SPATIAL)
@STAGES
def test_equivariant_upsampling_is_undone_exactly(stages: tuple[UpsampleStage, ...], name: Augmentation) -> None:
    """With a kernel that the augmentation leaves as it is, the view equals the original bit by bit.

    Weights and queries are small integers and norms do nothing, so that every sum is exact in any order.
    """
    decoder = make_decoder(stages, (name,))
    layers, norms = stages_and_norms(decoder)
    for norm in norms:
        norm.eps = 0.0
        norm.reset_parameters()
    for parameter in decoder.parameters():
        parameter.copy_((3.0 * parameter).round())
    for layer in layers:
        weight = layer.weight
        mirrored = weight.transpose(2, 3) if name == "transpose" else weight.flip(2 if name == "flip_x" else 3)
        weight.copy_(weight + mirrored)
    logits = decoder((3.0 * make_queries(2)).round())
    assert len(logits[0].unique(dim=0)) > 10
    assert torch.equal(logits[1], logits[0])


@torch.no_grad()
@STAGES
def test_view_without_strength_is_the_original(stages: tuple[UpsampleStage, ...]) -> None:
    """Dropout 0 and noise 0 augment nothing; equal up to the order of sums in a matrix product."""
    logits = make_decoder(stages, ("dropout", "gaussian"))(make_queries(2))
    for view in logits[1:]:
        torch.testing.assert_close(view, logits[0], rtol=1e-12, atol=1e-12)
