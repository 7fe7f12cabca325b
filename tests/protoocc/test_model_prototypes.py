"""Clustering, equations (1a), (1b), (2) and the attention map, against literal loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoocc.model.attention import Sampling
from protoocc.model.pixel_features import PixelFeatures, attention_map
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


def test_cluster_against_loops() -> None:
    """Two rounds of soft assignment, pixel by pixel."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64)
    pixels = [features[0, :, row, column] for row in range(4) for column in range(4)]
    prototypes = [features[0, :, r : r + 2, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2)]
    for _ in range(2):
        sums, totals = [torch.zeros(3, dtype=torch.float64) for _ in prototypes], [0.0] * 4
        for pixel in pixels:
            powers = [math.exp(10.0 * cosine(pixel, prototype)) for prototype in prototypes]
            for number, power in enumerate(powers):
                sums[number] += pixel * power / sum(powers)
                totals[number] += power / sum(powers)
        prototypes = [total / weight for total, weight in zip(sums, totals, strict=True)]
    torch.testing.assert_close(cluster(features, 2, 2)[0], torch.stack(prototypes), rtol=1e-6, atol=1e-6)


def test_cluster_separates_two_halves() -> None:
    """Left half (1, 0), right half (0, 1), odd border: each prototype ends near one of the two."""
    features = torch.zeros(1, 2, 4, 6)
    features[:, 0, :, :3], features[:, 1, :, 3:] = 1.0, 1.0
    prototypes = cluster(features, 2, 5)[0]
    assert (prototypes.amax(-1) > 0.9).sum() >= 4


def test_aggregate_by_hand() -> None:
    """One prototype 2, queries 1 and 3 with similarities 0.5 and 0.25: (2 + 0.5 + 0.75) / (1 + 0.75)."""
    result = aggregate(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5, 0.25]]))
    torch.testing.assert_close(result, torch.tensor([[3.25 / 1.75]]))


@torch.no_grad()
def test_mapping_against_loops() -> None:
    """Equations (1a) and (1b) written as loops over prototypes m and queries k."""
    torch.manual_seed(0)
    mapping = PrototypeMapping(4).double()
    prototypes, queries = torch.randn(3, 4).double(), torch.randn(5, 4).double()
    mapped, voxel_prototypes, similarity = mapping(prototypes, queries)
    lifted = [mapping.lift.weight @ p + mapping.lift.bias for p in prototypes]
    scale, shift = float(mapping.scale), float(mapping.shift)
    share = [[sigmoid(scale * cosine(p, q) + shift) for q in queries] for p in lifted]
    expected_prototypes = [
        (lifted[m] + sum(share[m][k] * queries[k] for k in range(5))) / (1.0 + sum(share[m])) for m in range(3)
    ]
    torch.testing.assert_close(voxel_prototypes, torch.stack(expected_prototypes), rtol=1e-6, atol=1e-6)
    first, _, second = mapping.dispatch
    for k in range(5):
        sent = sum(share[m][k] * expected_prototypes[m] for m in range(3))
        hidden = (first.weight @ sent + first.bias).clamp_min(0)
        expected = queries[k] + second.weight @ hidden + second.bias
        torch.testing.assert_close(mapped[k], expected, rtol=1e-6, atol=1e-6)
    assert similarity.abs().max() <= 1.0 + 1e-9


def test_mapping_without_hits() -> None:
    """A camera that sees nothing keeps its lifted prototypes."""
    mapping = PrototypeMapping(4)
    mapped, voxel_prototypes, similarity = mapping(torch.ones(3, 4), torch.zeros(0, 4))
    assert mapped.shape == (0, 4)
    assert similarity.shape == (3, 0)
    torch.testing.assert_close(voxel_prototypes, mapping.lift(torch.ones(3, 4)))


def test_affinity_ignores_length() -> None:
    """Cosine similarity: (3, 4) and (0, 2) give 4 / 5."""
    result = affinity(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0], [-6.0, -8.0]]))
    torch.testing.assert_close(result, torch.tensor([[0.8, -1.0]]))


def test_attention_map_by_hand() -> None:
    """One head and point on a 1 x 2 grid: u = 0.375 lies at 0.25 between the centres 0.25 and 0.75."""
    sampling = Sampling(torch.tensor([0.375, 0.5]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(attention_map(sampling, (1, 2)), torch.tensor([[0.75], [0.25]]))


def test_attention_map_drops_what_leaves_the_image() -> None:
    """A point on the outer corner keeps a quarter, a point far outside nothing."""
    corner = Sampling(torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(attention_map(corner, (2, 2)), torch.tensor([[0.25], [0.0], [0.0], [0.0]]))
    outside = Sampling(torch.full((1, 1, 1, 1, 2), 7.0), torch.ones(1, 1, 1, 1))
    assert attention_map(outside, (2, 2)).sum() == 0
    assert attention_map(Sampling(torch.zeros(0, 1, 1, 1, 2), torch.zeros(0, 1, 1, 1)), (2, 2)).shape == (4, 0)


@torch.no_grad()
def test_pixel_features_against_loops() -> None:
    """Equation (2) with G from loops over hits, heads, levels, points and the four neighbour cells."""
    generator = torch.Generator().manual_seed(1)
    hits, heads, levels, points, height, width = 3, 2, 2, 2, 3, 4
    locations = torch.rand(hits, heads, levels, points, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(hits, heads, levels, points, generator=generator, dtype=torch.float64)
    similarity = torch.rand(5, hits, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    module = PixelFeatures().double()
    result, seen = module(attention_map(Sampling(locations, weights), (height, width)), similarity, prototypes)
    scale, shift = float(module.scale), float(module.shift)
    for row in range(height):
        for column in range(width):
            share = [0.0] * hits
            for k in range(hits):
                for u, v, weight in zip(
                    *locations[k].reshape(-1, 2).T.tolist(), weights[k].flatten().tolist(), strict=True
                ):
                    near_u = max(0.0, 1.0 - abs(u * width - 0.5 - column))
                    near_v = max(0.0, 1.0 - abs(v * height - 0.5 - row))
                    share[k] += weight * near_u * near_v / heads
            cell = row * width + column
            assert bool(seen[cell]) is (sum(share) > 0)
            expected = torch.zeros(6, dtype=torch.float64)
            for k in range(hits):
                for m in range(5):
                    part = share[k] / sum(share) if sum(share) else 0.0
                    expected += part * sigmoid(scale * float(similarity[m, k]) + shift) * prototypes[m]
            torch.testing.assert_close(result[cell], expected, rtol=1e-6, atol=1e-6)
