"""Clustering, equations (1a), (1b), (2) and the attention map, against literal loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoocc.model.attention import Sampling
from protoocc.model.pixel_features import shares_of_cells
from protoocc.model.prototypes import PrototypeMapping, affinity, aggregate, cluster


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def test_first_prototypes_are_cell_means() -> None:
    """A 3 x 5 map cut by r = 2: cells of 2x2, 2x2, 2x1 above and 1x2, 1x2, 1x1 below."""
    features = torch.arange(15.0).view(1, 1, 3, 5)
    means = cluster(features, 2, 0)[0, :, 0]
    # (0+1+5+6)/4, (2+3+7+8)/4, (4+9)/2, (10+11)/2, (12+13)/2, 14
    torch.testing.assert_close(means, torch.tensor([3.0, 5.0, 6.5, 10.5, 12.5, 14.0]))


@pytest.mark.parametrize(("cell", "count"), [(2, 1400), (4, 350), (6, 170), (8, 91)])
def test_prototype_count_of_paper_size(cell: int, count: int) -> None:
    """Stride-8 map of the padded 448 x 800 image."""
    assert cluster(torch.zeros(1, 1, 56, 100), cell, 0).shape == (1, count, 1)


def test_cluster_separates_two_halves() -> None:
    """Left half (1, 0), right half (0, 1), odd border: each prototype ends near one of the two."""
    features = torch.zeros(1, 2, 4, 6)
    features[:, 0, :, :3], features[:, 1, :, 3:] = 1.0, 1.0
    prototypes = cluster(features, 2, 5)[0]
    assert (prototypes.amax(-1) > 0.9).sum() >= 4


def test_aggregate_by_hand() -> None:
    """One prototype 2, queries 1 and 3 with similarities 0.5 and 0.25: 2 + (0.5 + 0.75) / (1 + 0.75)."""
    result = aggregate(torch.tensor([[[2.0]]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.25]]), [2])
    torch.testing.assert_close(result, torch.tensor([[[2.0 + 1.25 / 1.75]]]))


def test_mapping_without_hits() -> None:
    """A camera that sees nothing keeps its lifted prototypes."""
    mapping = PrototypeMapping(4)
    mapped, voxel_prototypes, similarity = mapping(torch.ones(1, 3, 4), torch.zeros(0, 4), torch.zeros(0, 2), [0])
    assert mapped.shape == (0, 4)
    assert similarity.shape == (0, 3)
    torch.testing.assert_close(voxel_prototypes, mapping.project(torch.ones(1, 3, 4)))


def test_affinity_ignores_length() -> None:
    """Cosine similarity: (3, 4) and (0, 2) give 4 / 5."""
    result = affinity(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[0.0, 2.0], [-6.0, -8.0]]), [2])
    torch.testing.assert_close(result, torch.tensor([[0.8], [-1.0]]))


def given(u: float, v: float, grid_size: tuple[int, int]) -> list[float]:
    """What each cell gets of one hit with one head and point at (u, v)."""
    sampling = Sampling(torch.tensor([u, v]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    return shares_of_cells(torch.ones(1, 1), sampling, grid_size, [1]).flatten().tolist()


def test_shares_of_cells_by_hand() -> None:
    """u = 0.375 lies at 0.25 between the centres 0.25 and 0.75 of a 1 x 2 grid."""
    assert given(0.375, 0.5, (1, 2)) == [0.75, 0.25]


def test_shares_drop_what_leaves_the_image() -> None:
    """A point on the outer corner keeps a quarter, a point far outside nothing; a camera may see nothing."""
    assert given(0.0, 0.0, (2, 2)) == [0.25, 0.0, 0.0, 0.0]
    assert given(7.0, 7.0, (2, 2)) == [0.0] * 4
    nothing = Sampling(torch.zeros(0, 1, 1, 1, 2), torch.zeros(0, 1, 1, 1))
    assert shares_of_cells(torch.zeros(0, 3), nothing, (2, 2), [0]).shape == (1, 4, 3)
