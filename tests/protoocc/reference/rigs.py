"""Cameras around a vehicle and batches of random images, float64."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from protoocc.batch import Batch
from schemas.geometry import VoxelGrid


def look_along(yaw_rad: float, height_m: float = 1.5) -> Tensor:
    """``camera_from_ego`` of a level camera above the ego origin that looks along this heading (0 is forward)."""
    sine, cosine = math.sin(yaw_rad), math.cos(yaw_rad)
    rows = [[sine, -cosine, 0.0, 0.0], [0.0, 0.0, -1.0, height_m], [cosine, sine, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def look_away() -> Tensor:
    """``camera_from_ego`` of a camera 50 m below the ground that looks down: everything lies behind it."""
    rows = [[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -50.0], [0.0, 0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def random_rigs(samples: int, cameras: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Poses (samples, cameras, 4, 4) and intrinsics (..., 3, 3) of 40 x 70 pixels; no two cameras are alike."""
    generator = torch.Generator().manual_seed(seed)
    poses = torch.stack([torch.stack([look_along(6.28 * c / cameras) for c in range(cameras)]) for _ in range(samples)])
    tilt = 0.2 * torch.randn(samples, cameras, 3, 3, generator=generator, dtype=torch.float64)
    poses[..., :3, :3] = torch.linalg.matrix_exp(tilt - tilt.mT) @ poses[..., :3, :3]
    poses[..., :3, 3] += torch.rand(samples, cameras, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([[40.0, 0.0, 35.0], [0.0, 40.0, 20.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    intrinsics = intrinsics.repeat(samples, cameras, 1, 1)
    intrinsics[..., :2, :] += 4.0 * torch.rand(samples, cameras, 2, 3, generator=generator, dtype=torch.float64)
    return poses, intrinsics


def random_batch(grid: VoxelGrid, samples: int = 1, seed: int = 0) -> Batch:
    """Three cameras of 40 x 70 pixels with noise, pseudo masks of 8 x 8 pixels, and random labels of 18 classes."""
    generator = torch.Generator().manual_seed(seed)
    poses, intrinsics = random_rigs(samples, 3, seed)
    blocks = torch.randint(0, 6, (samples, 3, 5, 9), generator=generator)
    labels = (samples, *grid.shape)
    return Batch(
        images=torch.randint(0, 256, (samples, 3, 3, 40, 70), generator=generator).to(torch.uint8),
        image_from_camera=intrinsics,
        camera_from_ego=poses,
        tokens=[f"token-{seed}-{number}" for number in range(samples)],
        segment_id=blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :40, :70],
        semantics=torch.randint(0, 18, labels, generator=generator),
        mask_camera=torch.rand(labels, generator=generator) < 0.5,
        mask_lidar=torch.rand(labels, generator=generator) < 0.5,
    )


def with_cameras(batch: Batch, order: list[int]) -> Batch:
    """These cameras with their images, calibration and masks, in this order."""
    assert batch.segment_id is not None
    return dataclasses.replace(
        batch,
        images=batch.images[:, order],
        image_from_camera=batch.image_from_camera[:, order],
        camera_from_ego=batch.camera_from_ego[:, order],
        segment_id=batch.segment_id[:, order],
    )


def with_poses(batch: Batch, poses: dict[int, Tensor]) -> Batch:
    """The same batch with other poses of some cameras."""
    changed = batch.camera_from_ego.clone()
    for camera, pose in poses.items():
        changed[:, camera] = pose
    return dataclasses.replace(batch, camera_from_ego=changed)
