"""Earlier frames: exact warps, the size of the fusion block, and what history may and may not change."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from protoocc.batch import Batch
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model import ProtoOcc
from protoocc.model.projection import query_centers
from protoocc.model.temporal import TemporalFusion, warp
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.geometry import VoxelGrid
from tests.protoocc.test_model import make_batch, tiny_model

GRID = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 4))
CENTERS = query_centers(GRID, (8, 8, 4))


def pose(x_m: float = 0.0, y_m: float = 0.0, yaw_quarters: int = 0) -> torch.Tensor:
    cos, sin = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][yaw_quarters]
    return torch.tensor([[cos, -sin, 0, x_m], [sin, cos, 0, y_m], [0, 0, 1, 0], [0, 0, 0, 1.0]])[None]


def with_past(batch: Batch, frames: int, motion: torch.Tensor | None = None) -> Batch:
    """The batch with itself as its own past, moved by ``motion``."""
    shape = (1, frames - 1)
    motion = torch.eye(4)[None] if motion is None else motion
    return dataclasses.replace(
        batch,
        past_images=batch.images[:, None].expand(*shape, *batch.images.shape[1:]),
        past_image_from_camera=batch.image_from_camera[:, None].expand(*shape, 3, 3, 3),
        past_camera_from_ego=batch.camera_from_ego[:, None].expand(*shape, 3, 4, 4),
        past_from_ego=motion[:, None].expand(*shape, 4, 4),
    )


def test_warp_without_motion_changes_nothing() -> None:
    """Each query finds its own place."""
    earlier = torch.randn(2, 8, 8, 4, 3)
    torch.testing.assert_close(warp(earlier, torch.eye(4).expand(2, 4, 4), CENTERS, GRID), earlier)


def test_warp_by_two_cells() -> None:
    """After driving 2 m ahead, the place at x is two cells further in the earlier grid; beyond it is zero."""
    earlier = torch.randn(1, 8, 8, 4, 3)
    warped = warp(earlier, pose(x_m=2.0), CENTERS, GRID)
    torch.testing.assert_close(warped[:, :6], earlier[:, 2:])
    assert warped[:, 6:].abs().max() < 1e-5


def test_warp_by_a_quarter_turn() -> None:
    """A left turn by 90 degrees: what is ahead now (x, y) was at (-y, x)."""
    earlier = torch.randn(1, 8, 8, 4, 3)
    warped = warp(earlier, pose(yaw_quarters=1), CENTERS, GRID)
    # Cell (6, 1) has its centre at (2.5, -2.5), which was at (2.5, 2.5): cell (6, 6).
    torch.testing.assert_close(warped[:, 6, 1], earlier[:, 6, 6])
    torch.testing.assert_close(warped, torch.rot90(earlier, 1, (2, 1)))


def test_flat_grid_ignores_heights() -> None:
    """With one cell in z a change of height does not fade the features."""
    earlier = torch.randn(1, 8, 8, 1, 3)
    lifted = torch.eye(4)[None].clone()
    lifted[0, 2, 3] = 0.7
    flat = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 1))
    torch.testing.assert_close(warp(earlier, lifted, query_centers(flat, (8, 8, 1)), flat), earlier)


def test_fusion_has_the_published_size() -> None:
    """1024*256 + 27*256*256 + 256*256 + 1024*256 weights and four batch norms of 2*256."""
    size = sum(p.numel() for p in TemporalFusion(256, 4).parameters())
    assert size == 262_144 + 1_769_472 + 65_536 + 262_144 + 4 * 512 == 2_361_344


@pytest.mark.parametrize("temporal", ["fusion", "recurrence"])
def test_history_trains(temporal: str) -> None:
    """A step with two earlier frames: the answer depends on them, gradients are finite."""
    torch.manual_seed(0)
    model = ProtoOcc(tiny_model(frames=3, temporal=temporal)).train()
    batch = with_past(make_batch(), 3, pose(x_m=2.0))
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    compute_losses(model(batch, choice.all), batch, choice, LossConfig())["total"].backward()
    used = [p for p in model.parameters() if p.grad is not None]
    assert used
    assert all(torch.isfinite(p.grad).all() for p in used if p.grad is not None)
    model.eval()
    moved = dataclasses.replace(batch, past_from_ego=pose(x_m=-3.0)[:, None].expand(1, 2, 4, 4))
    assert not torch.allclose(model(batch).logits, model(moved).logits, atol=1e-4)


def test_recurrence_reads_the_oldest_frame() -> None:
    """The state runs through all earlier frames: another oldest image changes the answer."""
    torch.manual_seed(0)
    model = ProtoOcc(tiny_model(frames=4, temporal="recurrence")).eval()
    batch = with_past(make_batch(), 4)
    assert batch.past_images is not None
    other = batch.past_images.clone()
    other[:, 2] = 255 - other[:, 2]
    changed = dataclasses.replace(batch, past_images=other)
    assert not torch.allclose(model(batch).logits, model(changed).logits, atol=1e-6)


def test_recurrence_composes_motions() -> None:
    """Two steps of 1 m each are known by their poses alone: past 2 lies 1 m behind past 1."""
    torch.manual_seed(0)
    model = ProtoOcc(tiny_model(frames=3, temporal="recurrence")).eval()
    batch = with_past(make_batch(), 3)
    straight = dataclasses.replace(batch, past_from_ego=torch.stack([pose(1.0)[0], pose(2.0)[0]])[None])
    turned = dataclasses.replace(batch, past_from_ego=torch.stack([pose(1.0)[0], pose(1.0)[0]])[None])
    seen: list[torch.Tensor] = []
    model._warp = lambda queries, motion: seen.append(motion) or queries  # type: ignore[assignment,func-returns-value]
    model(straight), model(turned)
    torch.testing.assert_close(torch.cat(seen)[:, 0, 3], torch.tensor([1.0, 1.0, 0.0, 1.0]))


def test_missing_history_is_refused() -> None:
    """A network of four frames says what is missing."""
    model = ProtoOcc(tiny_model(frames=4)).eval()
    with pytest.raises(DataError, match="0 earlier frames, the network reads 3"):
        model(make_batch())


@pytest.mark.parametrize("changes", [{}, {"frames": 2}, {"prototype_mapping": False, "prototype_optimisation": False}])
def test_recomputing_changes_no_gradient(changes: dict[str, object]) -> None:
    """Activation checkpointing gives the same losses and gradients to 1e-6."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = ProtoOcc(tiny_model(recompute=recompute, **changes)).train()
        batch = with_past(make_batch(), 2) if "frames" in changes else make_batch()
        choice = choose_voxels(batch, LossConfig(), OCC3D)
        torch.manual_seed(1)
        compute_losses(model(batch, choice.all), batch, choice, LossConfig())["total"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-6)


def test_pillars_see_through_any_of_their_heights() -> None:
    """BEVFormer's pillars: a query counts as hit where one of its heights is visible; training works."""
    torch.manual_seed(0)
    fields = {"query_shape": (8, 8, 1), "pillar_heights": 4, "points": 4, "prototype_mapping": False}
    upsample = ({"kernel": (2, 2, 4), "stride": (2, 2, 4), "channels": 8},)
    config = tiny_model(**fields, upsample=upsample, prototype_optimisation=False)
    model, batch = ProtoOcc(config).train(), make_batch()
    hits = model._encode(batch.images, batch.image_from_camera, batch.camera_from_ego).hits
    assert hits.reference.shape[1:] == (4, 2)
    inside = ((hits.reference >= 0) & (hits.reference <= 1)).all(-1)
    assert inside.any(1).all()
    assert not inside.all()
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    compute_losses(model(batch, choice.all), batch, choice, LossConfig())["total"].backward()
