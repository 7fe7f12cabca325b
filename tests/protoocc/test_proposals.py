"""Pseudo LiDAR, the network that proposes, and proposals as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protoocc.batch import Batch
from protoocc.checkpoint import load_network
from protoocc.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from protoocc.evaluate import score
from protoocc.hosts import build_network
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model.pseudo_lidar import back_project, depth_cells
from protoocc.model.voxformer import ProposalNetwork, ProposalsConfig, VoxFormer, VoxFormerConfig
from protoocc.trainer import train
from schemas.classes import OCC3D
from schemas.errors import CheckpointError, ConfigError
from schemas.geometry import VoxelGrid
from tests.protoocc.conftest import GRID as SHARD_GRID

GRID = VoxelGrid(minimum_m=(0.0, -4.0, -2.0), voxel_size_m=0.5, shape=(16, 16, 8))
FRONT = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0.5], [1, 0, 0, -0.25], [0, 0, 0, 1]])
"""camera_from_ego of a camera at (0.25, 0, 0.5) that looks along x."""
INTRINSICS = torch.tensor([[40.0, 0, 32], [0, 40.0, 16], [0, 0, 1]])


def seen(depth: Tensor, tokens: int = 1) -> Batch:
    return Batch(
        images=torch.zeros(tokens, 1, 3, *depth.shape[-2:], dtype=torch.uint8),
        image_from_camera=INTRINSICS.expand(tokens, 1, 3, 3),
        camera_from_ego=FRONT.expand(tokens, 1, 4, 4),
        tokens=[f"token-{number}" for number in range(tokens)],
        input_depth_m=depth.expand(tokens, 1, *depth.shape[-2:]),
    )


def floor_depth(height_m: float) -> Tensor:
    """Depth of a horizontal plane z = height_m: the row with middle v sees it in depth f * (0.5 - z) / (v - cy)."""
    depth = torch.zeros(32, 64)
    for row in range(32):
        below = row + 0.5 - 16
        if below > 0:
            depth[row] = 40.0 * (0.5 - height_m) / below
    return depth


def test_pixels_of_a_plane_lie_on_the_plane() -> None:
    depth = floor_depth(-1.2)[None, None]
    points, sample = back_project(depth, INTRINSICS[None, None], FRONT[None, None])
    assert len(points) == (depth > 0).sum() == 16 * 64
    assert (sample == 0).all()
    torch.testing.assert_close(points[:, 2], torch.full((1024,), -1.2), rtol=0, atol=1e-4)
    # the pixel in row 31, column 0: depth 40 * 1.7 / 15.5, x = depth + 0.25, y = -(0.5 - 32) / 40 * depth
    far = 40 * 1.7 / 15.5
    expected = torch.tensor([far + 0.25, 31.5 / 40 * far, -1.2])
    torch.testing.assert_close(points[15 * 64], expected, rtol=0, atol=1e-4)


def test_plane_fills_the_cells_that_it_crosses() -> None:
    cells = depth_cells(seen(floor_depth(-1.2)), GRID, (16, 16, 8))[0]
    assert cells.any(0).any(0).tolist() == [False, True, False, False, False, False, False, False]  # -1.5 to -1.0
    expected = torch.zeros(16, 16, dtype=torch.bool)
    for row in range(16, 32):
        depth = 40 * 1.7 / (row + 0.5 - 16)
        for column in range(64):
            x, y = depth + 0.25, -(column + 0.5 - 32) / 40 * depth
            if x < 8 and -4 <= y < 4:
                expected[int(x / 0.5), int((y + 4) // 0.5)] = True
    assert torch.equal(cells[:, :, 1], expected)
    coarse = depth_cells(seen(floor_depth(-1.2)), GRID, (8, 8, 4))[0]
    assert torch.equal(coarse[:, :, 0], expected.view(8, 2, 8, 2).any(3).any(1))


def test_a_flipped_image_gives_the_mirrored_points() -> None:
    depth = torch.zeros(1, 1, 32, 64)
    depth[0, 0, 20, 5] = 4.0
    mirror = torch.tensor([[-1.0, 0, 64], [0, 1, 0], [0, 0, 1]])
    there, _ = back_project(depth, INTRINSICS[None, None], FRONT[None, None])
    here, _ = back_project(depth.flip(-1), (mirror @ INTRINSICS)[None, None], FRONT[None, None])
    torch.testing.assert_close(there, here)


def config(**changes: Any) -> ProposalsConfig:
    fields: dict[str, Any] = {"grid": GRID, "num_classes": 18, "free": 17, "width": 8}
    return ProposalsConfig(**fields | changes)


def build(settings: ProposalsConfig) -> ProposalNetwork:
    torch.manual_seed(0)
    network = build_network(settings)
    assert isinstance(network, ProposalNetwork)
    return network


@pytest.mark.parametrize("free", [0, 5, 17])
def test_logits_are_probabilities_of_free_and_of_the_shares(free: int) -> None:
    network = build(config(free=free))
    with torch.no_grad():
        network.shares.copy_(torch.linspace(-1, 1, 17))
        output = network(seen(floor_depth(-1.0)))
        occupied = network._occupied(seen(floor_depth(-1.0))).flatten()
    probabilities = output.logits[0].exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2048))
    torch.testing.assert_close(probabilities[:, free], 1 - occupied.sigmoid())
    others = [label for label in range(18) if label != free]
    shares = torch.linspace(-1, 1, 17).softmax(0)
    torch.testing.assert_close(probabilities[:, others], occupied.sigmoid()[:, None] * shares)


def test_predictions_are_the_most_frequent_class_or_free_by_occupancy_alone() -> None:
    network = build(config(learned=False, free=0)).eval()
    with torch.no_grad():
        network.shares[6] = 1.0  # class 7, as class 0 is free
    batch = seen(floor_depth(-1.2), tokens=2)
    predicted = network.predict(batch)
    cells = depth_cells(batch, GRID, GRID.shape)
    assert torch.equal(predicted, torch.where(cells, 7, 0).to(torch.uint8))


def test_proposer_pools_voxels_to_queries() -> None:
    network = build(config())
    assert network.proposer is not None
    batch = seen(floor_depth(-1.2))
    with torch.no_grad():
        probability = network.proposer.eval()(depth_cells(batch, GRID, (8, 8, 4))).sigmoid()[0]
    threshold = float(probability.median())
    proposed = network.proposer.propose(batch, (4, 8, 4), threshold)[0]
    for x, y, z in np.ndindex(4, 8, 4):
        block = probability[4 * x : 4 * x + 4, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        assert bool(proposed[x, y, z]) == bool((block > threshold).any())


def test_output_of_the_unet_stands_where_its_cell_is() -> None:
    """A U-Net that answers with its own channel number shows where each channel of a cell goes."""
    network = build(config())
    assert network.proposer is not None
    proposer = network.proposer
    with torch.no_grad():
        proposer.unet.out.weight.zero_()
        proposer.unet.out.bias.copy_(torch.arange(32.0))
        volume = proposer.eval()(torch.zeros(1, 8, 8, 4, dtype=torch.bool))[0]
    for x, y, z in [(0, 0, 0), (1, 0, 3), (6, 5, 7), (15, 14, 2)]:
        assert volume[x, y, z] == (x % 2 * 2 + y % 2) * 8 + z


def settings(model: ProposalsConfig | VoxFormerConfig, steps: int = 12) -> TrainConfig:
    return TrainConfig(
        model=model,
        loss=LossConfig(lambda_lovasz=0.0),
        optimizer=OptimizerConfig(lr=1e-2, backbone_lr_factor=1.0),
        schedule=ScheduleConfig(steps=steps, warmup_steps=2),
        data=DataConfig(batch_size=2),
        checkpoint_every=100,
    )


def host(**changes: Any) -> VoxFormerConfig:
    fields: dict[str, Any] = {
        "grid": SHARD_GRID,
        "num_classes": 18,
        "free": 17,
        "backbone": "resnet18",
        "backbone_width": 8,
        "channels": 16,
        "query_shape": (4, 4, 2),
        "heads": 4,
        "points": 2,
        "proposal_width": 8,
    }
    return VoxFormerConfig(**fields | changes)


def test_a_voxformer_takes_its_proposals_from_a_run(depth_shards: Path, tmp_path: Path) -> None:
    train(settings(config(grid=SHARD_GRID), 4), depth_shards, tmp_path / "proposals")
    learned = host(proposals="learned", proposal_run=str(tmp_path / "proposals"), proposal_threshold=0.3)
    train(settings(learned, 3), depth_shards, tmp_path / "voxformer")
    proposer, _ = load_network(tmp_path / "proposals")
    network, _ = load_network(tmp_path / "voxformer")
    assert isinstance(network, VoxFormer) and network.proposer is not None
    assert isinstance(proposer, ProposalNetwork) and proposer.proposer is not None
    theirs, own = proposer.proposer.state_dict(), network.proposer.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())


def test_runs_that_cannot_propose_are_refused(depth_shards: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.proposal_run"):
        train(settings(host(proposals="learned")), depth_shards, tmp_path / "a")
    with pytest.raises(ConfigError, match="pack --depth"):
        train(settings(host()), shards, tmp_path / "b")
    train(settings(config(grid=SHARD_GRID, width=16), 3), depth_shards, tmp_path / "wide")
    with pytest.raises(CheckpointError, match=r"wide does not fit: 'proposer.unet"):
        train(settings(host(proposals="learned", proposal_run=str(tmp_path / "wide")), 3), depth_shards, tmp_path / "c")


def test_depth_as_it_is_can_be_scored(depth_shards: Path, tmp_path: Path) -> None:
    train(settings(config(grid=SHARD_GRID, learned=False), 30), depth_shards, tmp_path / "run")
    report = score(tmp_path / "run", depth_shards, "val")
    network, _ = load_network(tmp_path / "run")
    assert isinstance(network, ProposalNetwork)
    assert int(network.shares.argmax()) == OCC3D.index("driveable_surface")
    assert any(row.name == "model" for row in report.rows)


@pytest.mark.slow
def test_learns_to_complete_a_floor() -> None:
    labels = torch.full((1, *GRID.shape), 17, dtype=torch.uint8)
    labels[..., :2] = OCC3D.index("driveable_surface")
    batch = dataclasses.replace(
        seen(floor_depth(-1.2)), semantics=labels, mask_camera=torch.ones(1, *GRID.shape, dtype=torch.bool), seeds=[0]
    )
    network, losses = build(config()).train(), LossConfig(lambda_lovasz=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        choice = choose_voxels(batch, losses, OCC3D)
        loss = compute_losses(network(batch, choice.all), batch, choice, losses)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval().predict(batch) == labels).float().mean() > 0.99


def test_autocast_moves_no_point() -> None:
    """In 16 bits points 40 m away would move by a tenth of a metre: cells of that edge tell."""
    depth = torch.rand(1, 1, 8, 16, generator=torch.Generator().manual_seed(0)) * 40 + 1
    matrices = INTRINSICS[None, None], FRONT[None, None]
    exact, _ = back_project(depth, *matrices)
    with torch.autocast("cpu", torch.bfloat16):
        points, _ = back_project(depth, *matrices)
    assert torch.equal(points, exact) and len(points) == 128
    pixel = torch.tensor([3.5, 2.5, 1.0], dtype=torch.float64)
    in_camera = torch.linalg.inv(INTRINSICS.double()) @ pixel * depth[0, 0, 2, 3]
    expected = torch.linalg.inv(FRONT.double()) @ torch.cat([in_camera, in_camera.new_ones(1)])
    assert torch.allclose(points[2 * 16 + 3].double(), expected[:3], atol=1e-5)
