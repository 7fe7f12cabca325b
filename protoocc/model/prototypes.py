"""Prototype mapping: cluster image features, then map the prototypes onto voxel queries (section 3.2.1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

START_SCALE, START_SHIFT = 3.0, -2.5
"""Start of the learned scale and shift of the standardised affinity: the memberships of a query sum to about two of 45
prototypes and three of 350, most of it in the few that are more similar to it than the others by two deviations."""


def normalised(features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Each feature less its mean over the channels, over its deviation; no parameters."""
    return functional.layer_norm(features, features.shape[-1:])


def image_waves(place: Float[Tensor, "*n 2"], channels: int) -> Float[Tensor, "*n d"]:
    """Sines and cosines of places (u, v) in shares of the padded image, from half a wave to eight, of rms 1.

    Channels beyond four times the number of frequencies (d // 4) are zero.
    """
    count = channels // 4
    frequencies = torch.pi * 2.0 ** torch.linspace(0.0, 4.0, count, device=place.device, dtype=place.dtype)
    phase = (place * 2.0 - 1.0)[..., None] * frequencies
    waves = torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2) * 2.0**0.5
    return functional.pad(waves, (0, channels - waves.shape[-1]))


def placed(features: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
    """Image features with the waves of the middles of their cells added: what is grouped into prototypes."""
    precise = torch.promote_types(features.dtype, torch.float32)
    axes = [(torch.arange(size, dtype=precise, device=features.device) + 0.5) / size for size in features.shape[-2:]]
    v, u = torch.meshgrid(*axes, indexing="ij")
    waves = image_waves(torch.stack([u, v], dim=-1), features.shape[1])
    return features + waves.movedim(-1, 0).to(features.dtype)


def cluster(
    features: Float[Tensor, "n d H W"], cell: int, iterations: int, *, sharpness: float = 10.0
) -> Float[Tensor, "n M d"]:
    """Prototypes P_img of image features, by iterative soft grouping without parameters.

    The mean of each regular cell starts a prototype. Each round assigns every pixel softly to all prototypes by feature
    similarity, and a prototype becomes the assignment-weighted mean of the pixels.

    Args:
        features: (n, d, H, W) of n images.
        cell: edge r of a start cell; cells at the right and bottom border may be smaller.
        iterations: rounds; 0 returns the cell means.
        sharpness: scale of the cosine similarity before the softmax over prototypes.

    Returns:
        (n, M, d) with M = ceil(H / r) * ceil(W / r).
    """
    starts = functional.avg_pool2d(features, cell, ceil_mode=True)
    prototypes = starts.flatten(2).mT
    pixels = features.flatten(2).mT
    directions = functional.normalize(pixels, dim=-1)
    for _ in range(iterations):
        similarity = directions @ functional.normalize(prototypes, dim=-1).mT
        assignment = functional.softmax(sharpness * similarity, dim=-1)
        weight = assignment.sum(dim=1).clamp_min(torch.finfo(assignment.dtype).tiny)
        prototypes = (assignment.mT @ pixels) / weight[..., None]
    return prototypes


def times_own(
    rows: Float[Tensor, "n a"], matrices: Float[Tensor, "cameras a b"], counts: list[int]
) -> Float[Tensor, "n b"]:
    """Each row times the matrix of its camera; rows stand camera after camera, ``counts`` says how many each has."""
    return torch.cat([own @ matrix for own, matrix in zip(rows.split(counts), matrices, strict=True)])


def sum_products(
    left: Float[Tensor, "n a"], right: Float[Tensor, "n b"], counts: list[int]
) -> Float[Tensor, "cameras a b"]:
    """left^T @ right of each camera; rows stand camera after camera, ``counts`` says how many each has."""
    pairs = zip(left.split(counts), right.split(counts), strict=True)
    return torch.stack([one.mT @ other for one, other in pairs])


def sum_rows(rows: Float[Tensor, "n a"], counts: list[int]) -> Float[Tensor, "cameras a"]:
    """Sum of the rows of each camera."""
    return torch.stack([own.sum(dim=0) for own in rows.split(counts)])


def standardised(similarity: Float[Tensor, "n M"]) -> Float[Tensor, "n M"]:
    """The affinity of each query less its mean over the prototypes, over its deviation."""
    centred = similarity - similarity.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def membership(
    similarity: Float[Tensor, "n M"], scale: Float[Tensor, ""], shift: Float[Tensor, ""]
) -> Float[Tensor, "n M"]:
    """How much each query belongs to each prototype, 0..1: sigma(scale . A + shift - log M).

    Without log M the memberships of a query, and what it is sent, grow as the number of prototypes does.
    """
    return torch.sigmoid(scale * similarity + (shift - math.log(similarity.shape[1])))


def affinity(
    prototypes: Float[Tensor, "cameras M d"], queries: Float[Tensor, "n d"], counts: list[int]
) -> Float[Tensor, "n M"]:
    """A: cosine similarity of each hit query with the prototypes of its camera, -1..1."""
    return times_own(functional.normalize(queries, dim=-1), functional.normalize(prototypes, dim=-1).mT, counts)


def aggregate(
    prototypes: Float[Tensor, "cameras M d"],
    queries: Float[Tensor, "n d"],
    assignment: Float[Tensor, "n M"],
    counts: list[int],
) -> Float[Tensor, "cameras M d"]:
    """P_vox = P_img + sigma(A) . Q' / R, equation (1a), with R = 1 + the sum of the similarities of a prototype.

    P_img is the residual connection that the paper calls it, outside of R: divided by R, which is 100 to 200 with 1,800
    hits, it would be 1 % of P_vox, and queries would be told where they are and not what the image shows.
    """
    total = 1.0 + sum_rows(assignment, counts)
    return prototypes + sum_products(assignment, queries, counts) / total[..., None]


class PrototypeMapping(nn.Module):
    """Aggregation and dispatch between the prototypes of each camera and its hit queries, equation (1).

    A (M, K) of the paper is stored with a row for each hit, all cameras one after the other: what is done row by row is
    done for all cameras at once, so that a GPU is not kept waiting by small operations.
    """

    def __init__(self, channels: int) -> None:
        """Three linear maps of (d, d) and a learned scale and shift of the affinity."""
        super().__init__()
        self.project = nn.Linear(channels, channels)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.dispatch = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        self.shift = nn.Parameter(torch.tensor(START_SHIFT))

    def forward(
        self,
        prototypes: Float[Tensor, "cameras M d"],
        queries: Float[Tensor, "n d"],
        places: Float[Tensor, "n 2"],
        counts: list[int],
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "cameras M d"], Float[Tensor, "n M"]]:
        """Maps the prototypes P_img of each camera onto its hit queries Q'.

        Args:
            prototypes: of features with their place, see `placed`.
            queries: Q' of all cameras, one camera after the other.
            places: (u, v) where each lands, shares of the padded image; its waves join the affinity alone.
            counts: how many queries each camera hits.

        Returns:
            The prototype-aware query of equation (1b), the voxel prototypes P_vox of (1a), and the standardised
            affinity A.
        """
        lifted = self.project(prototypes)
        looking = normalised(queries) + image_waves(places, queries.shape[-1]).to(queries.dtype)
        similarity = standardised(affinity(lifted, looking, counts))
        assignment = membership(similarity, self.scale, self.shift)
        voxel_prototypes = aggregate(lifted, queries, assignment, counts)
        mapped = queries + self.dispatch(times_own(assignment, voxel_prototypes, counts))
        return mapped, voxel_prototypes, similarity
