"""The attention map G and equation (2) against loops in float64, gradients, and the borders."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from protoocc.model.attention import Sampling
from protoocc.model.pixel_features import PixelFeatures, shares_of_cells
from tests.protoocc.reference import pixels
from tests.protoocc.reference.arithmetic import assert_agrees

HEADS, LEVELS, POINTS = 2, 3, 2


def make_sampling(hits: int, seed: int = 0) -> Sampling:
    """Places from well outside the image on one side to well outside on the other; weights of a head sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (hits, HEADS, LEVELS, POINTS)
    locations = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 2.0 - 0.5
    weights = torch.randn(*shape, generator=generator, dtype=torch.float64).flatten(2).softmax(-1).view(shape)
    return Sampling(locations, weights)


def make_features() -> PixelFeatures:
    """H with a scale and a shift that are none of the starting values."""
    module = PixelFeatures().double()
    with torch.no_grad():
        module.scale.fill_(2.5)
        module.shift.fill_(0.4)
    return module


def attention_map(sampling: Sampling, grid_size: tuple[int, int]) -> torch.Tensor:
    """G (D, K) of one camera: what each cell is given by each hit."""
    hits = len(sampling.weights)
    return shares_of_cells(torch.eye(hits, dtype=torch.float64), sampling, grid_size, [hits])[0]


def random_case(prototypes: int, hits: int) -> tuple[Sampling, torch.Tensor, torch.Tensor]:
    """Places of which none lies in the right half of the image, A and P_vox of one camera."""
    generator, sampling = torch.Generator().manual_seed(1), make_sampling(hits)
    left = sampling.locations * torch.tensor([0.3, 1.0], dtype=torch.float64)
    similarity = torch.rand(hits, prototypes, generator=generator, dtype=torch.float64) * 2.0 - 1.0
    told = torch.randn(1, prototypes, 4, generator=generator, dtype=torch.float64)
    return Sampling(left, sampling.weights), similarity, told


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 4), (1, 1)])
@pytest.mark.parametrize("hits", [6, 1, 0])
def test_attention_map(hits: int, height: int, width: int) -> None:
    """Every sampling point of every head and level on the grid, also of a camera that sees nothing."""
    sampling = make_sampling(hits)
    expected = pixels.attention_map(sampling.locations.tolist(), sampling.weights.tolist(), height, width)
    assert_agrees(attention_map(sampling, (height, width)), expected)


def test_attention_map_on_exact_places() -> None:
    """Corners and edges of the image, centres and borders of cells, and points one cell outside."""
    steps = torch.arange(-3, 12, dtype=torch.float64) / 8.0  # eighths of an image of 4 cells: centres and borders
    u, v = torch.meshgrid(steps, steps, indexing="ij")
    locations = torch.stack([u, v], dim=-1).view(-1, 1, 1, 1, 2)
    sampling = Sampling(locations, torch.ones(len(locations), 1, 1, 1, dtype=torch.float64))
    expected = pixels.attention_map(locations.tolist(), sampling.weights.tolist(), 4, 4)
    assert_agrees(attention_map(sampling, (4, 4)), expected)


@pytest.mark.parametrize(("prototypes", "hits"), [(3, 5), (1, 5), (3, 1), (3, 0)])
def test_pixel_features(prototypes: int, hits: int) -> None:
    """Equation (2): with one prototype, one hit, cells that no hit looks at, and a camera that sees nothing."""
    module, (sampling, similarity, voxel_prototypes) = make_features(), random_case(prototypes, hits)
    features, seen = module(sampling, (3, 4), similarity, voxel_prototypes, [hits])
    expected, expected_seen = pixels.pixel_features(
        pixels.attention_map(sampling.locations.tolist(), sampling.weights.tolist(), 3, 4),
        similarity.T.tolist(),
        voxel_prototypes[0].tolist(),
        scale=module.scale.item(),
        shift=module.shift.item(),
    )
    assert_agrees(features[0], expected)
    assert seen[0].tolist() == expected_seen
    assert (0 < seen.sum() < 12) == (hits > 0)


def test_pixel_features_of_cameras_stand_alone() -> None:
    """Three cameras at once, the second of which sees nothing, are each as they are alone."""
    module, counts = make_features(), [4, 0, 2]
    sampling, similarity, _ = random_case(3, sum(counts))
    voxel_prototypes = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = module(sampling, (3, 4), similarity, voxel_prototypes, counts)
    places, weights = sampling.locations.split(counts), sampling.weights.split(counts)
    for camera, (alike, told, hits) in enumerate(zip(similarity.split(counts), voxel_prototypes, counts, strict=True)):
        looked = Sampling(places[camera], weights[camera])
        for whole, alone in zip(together, module(looked, (3, 4), alike, told[None], [hits]), strict=True):
            torch.testing.assert_close(whole[camera], alone[0])


@pytest.mark.parametrize(("prototypes", "hits"), [(3, 4), (1, 2)])
def test_pixel_features_gradient(prototypes: int, hits: int) -> None:
    """Of X to A, P_vox and both scalars of H."""
    module, (sampling, similarity, voxel_prototypes) = make_features(), random_case(prototypes, hits)
    scalars = [parameter.detach().clone() for parameter in module.parameters()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        own = dict(zip(("scale", "shift"), inputs[2:], strict=True))
        features: torch.Tensor = functional_call(module, own, (sampling, (3, 4), *inputs[:2], [hits]))[0]
        return features

    assert gradcheck(run, tuple(x.requires_grad_() for x in (similarity, voxel_prototypes, *scalars)))


def test_attention_map_carries_no_gradient() -> None:
    """G is a fixed bridge: the mask loss must not move sampling points."""
    sampling = make_sampling(3)
    sampling.locations.requires_grad_()
    sampling.weights.requires_grad_()
    assert not attention_map(sampling, (3, 5)).requires_grad


def test_scale_of_attention_means_nothing() -> None:
    """Each cell is normalised by its own sum: hits that look twice as hard leave its X."""
    module, (sampling, similarity, told) = make_features(), random_case(3, 5)
    harder = Sampling(sampling.locations, sampling.weights * 2.0)
    one, other = (module(looked, (3, 4), similarity, told, [5]) for looked in (sampling, harder))
    torch.testing.assert_close(one, other)
