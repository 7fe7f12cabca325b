"""A small scene with everything that hosts read, and steps of training on a batch."""

from __future__ import annotations

import numpy as np
import torch

from protoocc.batch import Batch
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.network import Network
from schemas.classes import OCC3D
from schemas.geometry import VoxelGrid

GRID = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 4))


def scene(samples: int = 1, seed: int = 0) -> Batch:
    """Cameras to the front and the back of 64 x 32 pixels, a wall of depth before the first, some labels."""
    random = np.random.default_rng(seed)
    intrinsics = torch.tensor([[30.0, 0, 32], [0, 30, 16], [0, 0, 1]])
    front = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    back = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 1], [-1, 0, 0, 0], [0, 0, 0, 1]])
    depth = torch.zeros(samples, 2, 32, 64)
    depth[:, 0] = 3.5
    labels = np.full((samples, *GRID.shape), OCC3D.free, np.uint8)
    labels[:, :, :, 0] = OCC3D.index("driveable_surface")
    labels[:, 7, 2:5, 1:3] = OCC3D.index("car")
    return Batch(
        images=torch.from_numpy(random.integers(0, 255, (samples, 2, 3, 32, 64), np.uint8)),
        image_from_camera=intrinsics.expand(samples, 2, 3, 3).clone(),
        camera_from_ego=torch.stack([front, back]).expand(samples, 2, 4, 4).clone(),
        tokens=[f"token-{number}" for number in range(samples)],
        segment_id=torch.arange(32 * 64).view(32, 64).div(512, rounding_mode="floor").expand(samples, 2, 32, 64),
        semantics=torch.from_numpy(labels),
        mask_camera=torch.ones(samples, *GRID.shape, dtype=torch.bool),
        input_depth_m=depth,
        seeds=list(range(samples)),
    )


def take_steps(network: Network, batch: Batch, count: int, lr: float, loss: LossConfig | None = None) -> list[float]:
    """Losses of some steps on one batch."""
    config = LossConfig() if loss is None else loss
    choice = choose_voxels(batch, config, OCC3D)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    losses = []
    for _ in range(count):
        total = compute_losses(network(batch, choice.all), batch, choice, config, network.config)["total"]
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        losses.append(total.item())
    return losses
