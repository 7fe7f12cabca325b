"""Clustering and equation (1) against loops in float64, gradients, and the borders."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from protoocc.model.prototypes import PrototypeMapping, affinity, aggregate, cluster, image_waves, normalised, placed
from tests.protoocc.reference import mapping
from tests.protoocc.reference.arithmetic import assert_agrees


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mapping(channels: int = 4) -> PrototypeMapping:
    """A mapping whose scale and shift are none of the starting values."""
    torch.manual_seed(1)
    module = PrototypeMapping(channels).double()
    with torch.no_grad():
        module.scale.fill_(3.0)
        module.shift.fill_(-0.7)
    return module


@pytest.mark.parametrize(
    ("height", "width", "cell", "iterations"), [(5, 7, 3, 0), (4, 6, 2, 3), (5, 7, 3, 2), (3, 2, 1, 1), (3, 5, 9, 2)]
)
def test_cluster(height: int, width: int, cell: int, iterations: int) -> None:
    """Whole cells, border cells, one pixel per cell, and one cell larger than the map."""
    features = normal(2, 3, height, width)
    expected = [mapping.cluster(image, cell, iterations, 10.0) for image in features.tolist()]
    assert_agrees(cluster(features, cell, iterations), expected)


@pytest.mark.parametrize("sharpness", [10.0, 25.0])
def test_cluster_prototype_that_hardly_any_pixel_likes(sharpness: float) -> None:
    """The mean of (0.1, 5) and (0.1, -5) points where no pixel does: its weight is near 6 e^-sharpness, and counts."""
    columns = [[0.1, 5.0], [0.1, -5.0], [0.0, 5.0], [0.0, 5.0], [0.0, -5.0], [0.0, -5.0]]
    image = torch.tensor(columns, dtype=torch.float64).T.view(1, 2, 1, 6)
    expected = mapping.cluster(image[0].tolist(), 2, 2, sharpness)
    assert_agrees(cluster(image, 2, 2, sharpness=sharpness), [expected])


def test_cluster_gradient() -> None:
    """Through three rounds of assignment."""
    assert gradcheck(lambda features: cluster(features, 2, 3), (normal(1, 3, 3, 4).requires_grad_(),))


def transposed(matrix: list[list[float]], columns: int) -> list[list[float]]:
    """A matrix of so many columns, which it has also without rows."""
    return [[row[column] for row in matrix] for column in range(columns)]


def test_affinity() -> None:
    """Pairwise cosines of the queries and prototypes of each camera; the second one sees nothing."""
    prototypes, queries, counts = normal(3, 3, 4), normal(7, 4, seed=1), [5, 0, 2]
    expected = []
    for camera, hits in zip(prototypes, queries.split(counts), strict=True):
        expected += transposed(mapping.affinity(camera.tolist(), hits.tolist()), len(hits))
    assert_agrees(affinity(prototypes, queries, counts), expected)


@pytest.mark.parametrize("channels", [4, 10])
def test_image_waves(channels: int) -> None:
    """One and two frequencies an axis, and channels that stay zero."""
    places = normal(5, 2).sigmoid()
    expected = [mapping.image_waves(u, v, channels) for u, v in places.tolist()]
    assert_agrees(image_waves(places, channels), expected)


def test_placed() -> None:
    """What is clustered: normalised features and the waves of the middles of their cells."""
    features = normal(2, 6, 3, 4)
    cells = normalised(features.movedim(1, -1)).movedim(-1, 1)
    assert_agrees(placed(cells), [mapping.placed(image) for image in features.tolist()])


def test_aggregate() -> None:
    """Equation (1a) on its own, gradient included; the second camera sees nothing."""
    prototypes, queries, counts = normal(3, 3, 4), normal(7, 4, seed=1), [5, 0, 2]
    assignment = normal(7, 3, seed=2).sigmoid()
    cameras = zip(prototypes, queries.split(counts), assignment.split(counts), strict=True)
    expected = [mapping.aggregate(p.tolist(), q.tolist(), a.T.tolist()) for p, q, a in cameras]
    assert_agrees(aggregate(prototypes, queries, assignment, counts), expected)
    inputs = tuple(x.requires_grad_() for x in (prototypes, queries, assignment))
    assert gradcheck(lambda *parts: aggregate(*parts, counts), inputs)


@pytest.mark.parametrize("prototypes", [3, 1])
@pytest.mark.parametrize("counts", [[7], [1], [0], [4, 0, 2], [1, 5]])
def test_mapping(prototypes: int, counts: list[int]) -> None:
    """Equations (1a) and (1b); with one prototype, with one hit, and for a camera that sees nothing."""
    module = make_mapping()
    images, hits = normal(len(counts), prototypes, 4), normal(sum(counts), 4, seed=1)
    places = normal(sum(counts), 2, seed=2).sigmoid()
    mapped, voxel_prototypes, similarity = module(images, hits, places, counts)
    rows = zip(*(part.split(counts) for part in (hits, places, mapped, similarity)), strict=True)
    for camera, (own, place, query, alike) in enumerate(rows):
        literal = mapping.map_prototypes(module, images[camera].tolist(), own.tolist(), place.tolist())
        assert_agrees(query, literal[0])
        assert_agrees(voxel_prototypes[camera], literal[1])
        assert_agrees(alike.T, literal[2])


@pytest.mark.parametrize(("prototypes", "counts"), [(3, [4]), (1, [3]), (2, [0]), (2, [2, 0, 1])])
def test_mapping_gradient(prototypes: int, counts: list[int]) -> None:
    """Of Q~, P_vox and A to prototypes, queries and all parameters."""
    module = make_mapping(3)
    names = [name for name, _ in module.named_parameters()]
    images, hits = normal(len(counts), prototypes, 3), normal(sum(counts), 3, seed=1)
    inputs = [images, hits, *(p.detach().clone() for p in module.parameters())]

    def run(images: torch.Tensor, hits: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = normal(sum(counts), 2, seed=2).sigmoid()
        outputs = functional_call(module, dict(zip(names, parameters, strict=True)), (images, hits, places, counts))
        return tuple(output for output in outputs if output.numel())

    assert gradcheck(run, tuple(x.requires_grad_() for x in inputs))


def test_one_prototype_is_the_mean_of_all_pixels() -> None:
    """With M = 1 the softmax over prototypes is 1 everywhere, in every round."""
    features = normal(1, 3, 4, 5)
    torch.testing.assert_close(cluster(features, 5, 3)[0, 0], features[0].mean((1, 2)))


def test_blind_camera_keeps_its_lifted_prototypes() -> None:
    """Without hits nothing is added: P_vox = P_img lifted."""
    module, images = make_mapping(), normal(1, 3, 4)
    torch.testing.assert_close(module(images, normal(0, 4), normal(0, 2), [0])[1], module.project(images))
