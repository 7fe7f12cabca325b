"""Lifted cells, the U-Net that refines them, the plain network, and frozen image features."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.hosts import build_network
from protoocc.losses import choose_voxels, compute_losses
from protoocc.model import Plain, PlainConfig, ProtoOcc
from protoocc.model.config import ProtoOccConfig, UpsampleStage
from protoocc.model.lifting import Lifting, mean_of_cameras, read_images, surface_shares
from protoocc.model.projection import HitQueries
from protoocc.model.refinement import Refinement
from schemas.classes import OCC3D
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid
from schemas.settings import override
from tests.protoocc.reference.rigs import random_batch as precise_batch

LIFTED = {
    "lifted_cells": (2, 2, 1),
    "refinement_channels": 8,
    "upsample": (UpsampleStage(kernel=(1, 1, 2), stride=(1, 1, 2), channels=8),),
}


@pytest.fixture
def lifted(tiny_config: TrainConfig) -> ProtoOccConfig:
    """4 x 4 x 2 queries of 2 x 2 x 1 cells each, with a head for depth."""
    model = tiny_config.model.model_copy(update={**LIFTED, "pixel_depth": True})
    return ProtoOccConfig.model_validate(model.model_dump())


def random_batch(grid: VoxelGrid, samples: int = 1) -> Batch:
    """As the references have it, in float32."""
    batch = precise_batch(grid, samples)
    matrices = {"image_from_camera": batch.image_from_camera, "camera_from_ego": batch.camera_from_ego}
    return dataclasses.replace(batch, **{name: matrix.float() for name, matrix in matrices.items()})


def hits_at(places: list[tuple[float, float]], depths_m: list[float], rows: list[int]) -> HitQueries:
    """Hits of one camera."""
    index = torch.tensor(rows)
    reference = torch.tensor(places)[:, None]
    return HitQueries(index, index, reference, torch.tensor(depths_m)[:, None], [len(rows)])


def test_images_are_read_between_the_middles_of_cells() -> None:
    """A 2 x 4 map of ones to eights and a 1 x 2 map: at the middle of a cell its value, half way the mean."""
    fine, coarse = torch.arange(1.0, 9.0).view(1, 1, 2, 4), torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    hits = hits_at([(0.125, 0.25), (0.25, 0.25), (0.5, 0.5)], [1.0, 1.0, 1.0], [0, 1, 2])
    torch.testing.assert_close(read_images([fine], hits)[:, 0], torch.tensor([1.0, 1.5, 4.5]))
    torch.testing.assert_close(read_images([fine, coarse], hits)[:, 0], torch.tensor([11.0, 11.5, 19.5]))


def test_a_point_takes_the_mean_of_its_cameras() -> None:
    hits = hits_at([(0.5, 0.5)] * 3, [1.0] * 3, [2, 0, 2])
    means = mean_of_cameras(torch.tensor([[1.0], [5.0], [3.0]]), hits, 4)
    torch.testing.assert_close(means[:, 0], torch.tensor([5.0, 0.0, 2.0, 0.0]))


def test_surface_lies_before_in_or_behind_a_cell(lifted: ProtoOccConfig) -> None:
    """All the depth in one bin: cells nearer than it have it behind them, cells farther before them."""
    lifting = Lifting(lifted)
    logits = torch.full((1, lifted.depth_bins, 3, 5), -40.0)
    logits[:, 20] = 40.0
    near, far = (lifting.bins.nearest_m * math.exp(i * math.log(72.0) / 48) for i in (20, 21))
    middle = (near + far) / 2
    hits = hits_at([(0.5, 0.5)] * 4, [middle, middle - 3.0, middle + 3.0, 500.0], [0, 1, 2, 3])
    shares = surface_shares(logits.softmax(1), hits, lifting.bins, [lifting.reach_m])
    expected = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=0)


def test_queries_and_their_cells_agree(lifted: ProtoOccConfig) -> None:
    """A query starts from the cells within it, and is given back to the same ones."""
    lifting = Lifting(lifted)
    x, y, z = torch.meshgrid(*[torch.arange(float(n)) for n in lifting.shape], indexing="ij")
    cells = torch.stack([x, y, z], dim=-1)[None].expand(1, -1, -1, -1, 3).repeat(1, 1, 1, 1, 6)[..., :16]
    with torch.no_grad():
        mean = torch.eye(16).repeat(1, 4) / 4
        lifting.gather.weight.copy_(mean)
        lifting.gather.bias.zero_()
    lifting.norm = torch.nn.Identity()  # type: ignore[assignment]
    start = lifting.start(cells)
    assert start.shape == (1, 4, 4, 2, 16)
    torch.testing.assert_close(start[0, 1, 3, 0, :3], torch.tensor([2.5, 6.5, 0.0]))
    spread = lifting.spread(start)
    torch.testing.assert_close(spread[0, 2, 7, 0], start[0, 1, 3, 0])
    torch.testing.assert_close(spread[0, 3, 6, 1], start[0, 1, 3, 1])


def test_cells_hear_their_neighbours(lifted: ProtoOccConfig) -> None:
    """The U-Net reaches along x and y; an odd number of cells is no trouble."""
    refinement = Refinement(lifted, 8).eval()
    cells = torch.randn(1, 7, 9, 2, 16)
    changed = cells.clone()
    changed[0, 0, 0, 0] += 1.0
    difference = (refinement(changed) - refinement(cells)).abs().amax((0, 3, 4))
    assert difference.shape == (7, 9)
    assert difference[0, 0] > 0 and difference[2, 3] > 0


def test_all_parts_learn(lifted: ProtoOccConfig, tiny_config: TrainConfig) -> None:
    torch.manual_seed(0)
    network, batch = ProtoOcc(lifted).train(), random_batch(lifted.grid, samples=2)
    choice = choose_voxels(batch, tiny_config.loss, OCC3D)
    losses = compute_losses(network(batch, choice.all), batch, choice, tiny_config.loss)
    torch.autograd.backward(losses["total"])
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert silent == []


def test_earlier_frames_are_warped_cell_by_cell(lifted: ProtoOccConfig) -> None:
    """Two frames give the cells of one, and recurrence, which reads queries, is refused."""
    config = override_model(lifted, frames=2, frame_interval=1)
    now = random_batch(config.grid)
    past = {f"past_{name}": getattr(now, name)[:, None] for name in ("images", "image_from_camera", "camera_from_ego")}
    network, batch = ProtoOcc(config).eval(), dataclasses.replace(now, past_from_ego=torch.eye(4)[None, None], **past)
    with torch.no_grad():
        assert network.encode_scene(batch).queries.shape == (1, 8, 8, 2, 16)
    with pytest.raises(ValueError, match="lifted_cells and temporal 'recurrence' exclude each other"):
        override_model(config, temporal="recurrence")


def override_model(config: ProtoOccConfig, **changes: object) -> ProtoOccConfig:
    """The configuration with fields changed and checked again."""
    return ProtoOccConfig.model_validate({**config.model_dump(), **changes})


@pytest.fixture
def plain(tiny_config: TrainConfig) -> PlainConfig:
    """8 x 8 x 2 cells of 1 x 1 x 2 voxels."""
    shared = {name: getattr(tiny_config.model, name) for name in ("grid", "backbone", "backbone_width", "strides")}
    return PlainConfig(**shared, channels=16, cells=(4, 4, 2), width=8, voxel_channels=4)


def test_plain_network_puts_voxels_in_their_place(plain: PlainConfig) -> None:
    """Each voxel takes the channels of its part of its cell: voxel (x, y, z) lies in cell (x/2, y/2, z/2)."""
    network = Plain(plain)
    assert plain.parts == (2, 2, 2)
    numbers = torch.arange(2 * 8 * 4.0).view(1, -1, 1, 1) + 1000.0 * torch.arange(16.0).view(1, 1, 4, 4)
    network.unet = _Constant(numbers.movedim(1, -1))  # type: ignore[assignment]
    volume = network._volume(torch.zeros(1, 4, 4, 2, 16)).view(8, 8, 4, 4)
    x, y, z = 5, 2, 3  # cell (2, 1, 1), part (1, 0, 1)
    expected = 1000.0 * (2 * 4 + 1) + ((1 * 8 + (1 * 2 + 0) * 2 + 1) * 4 + torch.arange(4.0))
    torch.testing.assert_close(volume[x, y, z], expected)


class _Constant(torch.nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, plane: Tensor) -> Tensor:
        return self.value


def test_plain_network_learns(plain: PlainConfig, tiny_config: TrainConfig) -> None:
    torch.manual_seed(0)
    network, batch = build_network(plain).train(), random_batch(plain.grid, samples=2)
    choice = choose_voxels(batch, tiny_config.loss, OCC3D)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        total = compute_losses(network(batch, choice.all), batch, choice, tiny_config.loss)["total"]
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(ValueError, match="must divide the grid"):
        PlainConfig(cells=(60, 100, 4))


def test_frozen_features_stay_as_they_are(lifted: ProtoOccConfig, tiny_config: TrainConfig) -> None:
    """Neither their weights nor the statistics of their norms change, and no run starts them at random."""
    config = lifted.model_copy(update={"frozen_features": True})
    network, batch = ProtoOcc(config).train(), random_batch(config.grid)
    parts = [network.image_features, network.pixel_heads]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts if part is not None]
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    choice = choose_voxels(batch, tiny_config.loss, OCC3D)
    losses = compute_losses(network(batch, choice.all), batch, choice, tiny_config.loss)
    assert "depth" not in losses
    torch.autograd.backward(losses["total"])
    optimizer.step()
    for part, state in zip(parts, before, strict=True):
        assert part is not None
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert "start from trained ones with --weights" in config.obstacles(has_masks=True, has_weights=False)[0]
    assert config.obstacles(has_masks=True, has_weights=True) == []


def test_wrong_shapes_are_refused(tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"upsample turns \(8, 8, 2\) cells"):
        override(tiny_config, ["model.lifted_cells=[2,2,1]"])
