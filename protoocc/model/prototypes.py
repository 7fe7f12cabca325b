"""Prototype mapping: cluster image features, then map the prototypes onto voxel queries (section 3.2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

START_SCALE, START_SHIFT = 10.0, -6.0
"""Start of the learned scale and shift of the affinity. With 1 and 0 the sigmoid stays near one half for all of the
thousands of hit queries, and every voxel prototype is their mean."""


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


def affinity(prototypes: Float[Tensor, "M d"], queries: Float[Tensor, "K d"]) -> Float[Tensor, "M K"]:
    """A: pairwise cosine similarity of prototypes and hit queries, -1..1."""
    return functional.normalize(prototypes, dim=-1) @ functional.normalize(queries, dim=-1).T


def aggregate(
    prototypes: Float[Tensor, "M d"], queries: Float[Tensor, "K d"], assignment: Float[Tensor, "M K"]
) -> Float[Tensor, "M d"]:
    """P_vox = (P_img + sigma(A) . Q') / R, equation (1a), with R = 1 + the sum of the similarities of a prototype."""
    total = 1.0 + assignment.sum(dim=1, keepdim=True)
    return (prototypes + assignment @ queries) / total


class PrototypeMapping(nn.Module):
    """Aggregation and dispatch between the prototypes of one camera and its hit queries, equation (1)."""

    def __init__(self, channels: int) -> None:
        """Three linear maps of (d, d) and a learned scale and shift of the affinity."""
        super().__init__()
        self.lift = nn.Linear(channels, channels)
        self.dispatch = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        self.shift = nn.Parameter(torch.tensor(START_SHIFT))

    def forward(
        self, prototypes: Float[Tensor, "M d"], queries: Float[Tensor, "K d"]
    ) -> tuple[Float[Tensor, "K d"], Float[Tensor, "M d"], Float[Tensor, "M K"]]:
        """Maps the prototypes P_img of one camera onto its hit queries Q'.

        Returns:
            The prototype-aware query of equation (1b), the voxel prototypes P_vox of (1a), and the affinity A.
        """
        lifted = self.lift(prototypes)
        similarity = affinity(lifted, queries)
        assignment = torch.sigmoid(self.scale * similarity + self.shift)
        voxel_prototypes = aggregate(lifted, queries, assignment)
        return queries + self.dispatch(assignment.T @ voxel_prototypes), voxel_prototypes, similarity
