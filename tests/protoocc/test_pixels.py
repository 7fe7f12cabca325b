"""Class and depth of image cells: targets by hand, rays into the labels, heads, losses, and `depth.npz`."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, collate, open_shards
from protoocc.data.depth import decode_depth_points
from protoocc.losses import choose_voxels, compute_losses
from protoocc.losses.auxiliary import pixel_losses
from protoocc.losses.first_voxel import first_voxels
from protoocc.losses.pixels import cell_cross_entropy, class_counts, depth_counts
from protoocc.model import ProtoOcc, panoocc_small_dfa3d
from protoocc.model.depth_attention import DEPTH_BINS
from protoocc.pixels import DepthBins, DepthShares, PixelLogits, PixelOutput, UniformBins
from protoocc.trainer import train
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.geometry import VoxelGrid
from schemas.shards import DatasetInfo
from tests.protoocc.conftest import CAMERAS, GRID, HEIGHT, WIDTH, make_depth_member

CAR, ROAD, SKY = OCC3D.index("car"), OCC3D.index("driveable_surface"), OCC3D.free
INFO = DatasetInfo(name="tiny", cameras=CAMERAS, image_shape=(HEIGHT, WIDTH), grid=GRID, classes=OCC3D)


def test_cells_count_their_pixels() -> None:
    labels = torch.full((1, 2, 5), 255, dtype=torch.uint8)
    labels[0, 0] = torch.tensor([0, 0, 1, 2, 1])
    counts = class_counts(labels, (1, 3), 2, 3)
    assert counts[0, :, 0].tolist() == [[2, 0, 0], [0, 1, 1], [0, 1, 0]]


def test_depths_count_for_the_bins_beside_them() -> None:
    """Bins 1 to 2, 2 to 4, 4 to 8 m, with middles at 1.41, 2.83 and 5.66."""
    bins = DepthBins(1.0, 8.0, 3)
    like = torch.zeros(1)
    assert bins.centers_m(like).tolist() == pytest.approx([2**0.5, 2**1.5, 2**2.5])
    assert bins.place(torch.tensor([1.0, 2.0, 8.0])).tolist() == pytest.approx([0.0, 1.0, 3.0], abs=1e-6)
    depth = torch.tensor([[[2.0, 2**1.5, 0.0, 100.0, 0.1, 0.0]]])
    counts = depth_counts(depth, (1, 3), 2, bins)[0, :, 0]
    assert counts[:, 0].tolist() == pytest.approx([0.5, 1.5, 0.0], abs=1e-5)
    assert counts[:, 1].tolist() == [0.0, 0.0, 1.0]
    assert counts[:, 2].tolist() == [1.0, 0.0, 0.0]


def test_cell_loss_is_that_of_the_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 6, 6), generator=generator, dtype=torch.uint8)
    weights = [1.0, 2.0, 0.5, 3.0]
    found = cell_cross_entropy(logits, class_counts(labels, (3, 3), 2, 4), weights)
    logarithms = logits.log_softmax(1)
    total, norm = 0.0, 0.0
    for image in range(2):
        for row in range(6):
            for column in range(6):
                if (label := int(labels[image, row, column])) < 4:
                    total -= weights[label] * float(logarithms[image, label, row // 2, column // 2])
                    norm += weights[label]
    assert float(found) == pytest.approx(total / norm, rel=1e-5)
    nothing = torch.zeros(2, 4, 3, 3)
    assert float(cell_cross_entropy(logits.float(), nothing)) == 0.0


def one_camera(labels: torch.Tensor) -> Batch:
    """A camera at (0, 0, 1) that looks along x, focal length 8, principal point in the middle of 16 x 16 pixels."""
    intrinsics = torch.tensor([[8.0, 0.0, 8.0], [0.0, 8.0, 8.0], [0.0, 0.0, 1.0]])
    pose = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    return Batch(
        images=torch.zeros(1, 1, 3, 16, 16, dtype=torch.uint8),
        image_from_camera=intrinsics[None, None],
        camera_from_ego=pose[None, None],
        tokens=["a"],
        semantics=labels[None],
    )


def output_of(grid: VoxelGrid) -> PixelOutput:
    return PixelOutput(None, DepthBins(1.0, 72.0, 48), None, grid, SKY)


def test_rays_meet_the_first_voxel() -> None:
    """A wall 5 to 6 m ahead to the left, one 8 to 9 m ahead behind it and to the right, unknown matter far right."""
    grid = VoxelGrid(minimum_m=(-10.0, -10.0, -9.0), voxel_size_m=1.0, shape=(20, 20, 20))
    labels = torch.full(grid.shape, SKY)
    labels[15, 10:] = CAR
    labels[18, 5:] = ROAD
    labels[13, :5] = OCC3D.ignored
    classes, depth = first_voxels(output_of(grid), one_camera(labels), 0, 4)
    known = depth > 0
    # cells of 4 pixels: middle pixels 2, 6, 10, 14, whose middles are at 2.5, 6.5, 10.5, 14.5
    assert known.nonzero()[:, 2].unique().tolist() == [2, 6, 10]
    assert (classes[0, 2::4, 2] == CAR).all() and (classes[0, 2::4, 6] == CAR).all()
    assert (classes[0, 2::4, 10] == ROAD).all() and (classes[0, 2::4, 14] == 255).all()
    assert ((depth[0, 2::4, 2:7:4] >= 5.0) & (depth[0, 2::4, 2:7:4] <= 5.6)).all()
    assert ((depth[0, 2::4, 10] >= 8.0) & (depth[0, 2::4, 10] <= 8.6)).all()
    assert (classes[~known] == 255).all() and int(known.sum()) == 12


def test_right_answers_cost_little() -> None:
    """Both losses fall when the heads say what the labels say; without labels there is nothing to learn from."""
    grid = VoxelGrid(minimum_m=(-10.0, -10.0, -9.0), voxel_size_m=1.0, shape=(20, 20, 20))
    labels = torch.full(grid.shape, SKY)
    labels[15] = CAR
    batch, bins = one_camera(labels), DepthBins(1.0, 72.0, 48)

    def losses(category: int, depth_m: float) -> dict[str, float]:
        classes = torch.zeros(1, 18, 4, 4)
        classes[:, category] = 9.0
        depth = torch.zeros(1, 48, 4, 4)
        depth[:, int(bins.place(torch.tensor(depth_m)))] = 9.0
        shares = torch.full((1, DEPTH_BINS, 1, 1), 0.001)
        shares[:, int((depth_m - 2.0) / 0.5)] = 0.9
        dfa3d = DepthShares(shares, UniformBins(2.0, 58.0, DEPTH_BINS), 16)
        pixels = PixelOutput(PixelLogits(classes, depth, 4), bins, None, grid, SKY)
        found = pixel_losses(pixels, batch)
        own = pixel_losses(dataclasses.replace(pixels, logits=None, depth=dfa3d), batch)
        return {**{name: float(value) for name, value in found.items()}, "dfa3d": float(own["depth"])}

    right, wrong = losses(CAR, 5.3), losses(ROAD, 30.0)
    assert all(right[name] < 0.6 * wrong[name] for name in ("pixels", "depth", "dfa3d"))
    with pytest.raises(DataError, match="pack --depth"):
        pixel_losses(
            output_of(grid).__class__(PixelLogits(torch.zeros(1, 18, 4, 4), None, 4), bins, None, grid, SKY),
            dataclasses.replace(batch, semantics=None),
        )


def with_heads(config: TrainConfig) -> TrainConfig:
    return config.model_copy(
        update={"model": config.model.model_copy(update={"pixel_classes": True, "pixel_depth": True})}
    )


@pytest.mark.parametrize("folder", ["shards", "depth_shards"])
def test_heads_learn_from_points_or_labels(
    folder: str, tiny_config: TrainConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = with_heads(tiny_config)
    train(config, request.getfixturevalue(folder), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(row["depth"] > 0 and row["pixels"] > 0 for row in rows)
    assert rows[-1]["depth"] < rows[0]["depth"]
    weights = {"ce": config.loss.lambda_ce, "lovasz": config.loss.lambda_lovasz, "cls": config.loss.lambda_cls}
    weights |= {"cons": config.loss.lambda_cons, "pixels": config.loss.lambda_pixels, "depth": config.loss.lambda_depth}
    total = sum(weight * rows[0][name] for name, weight in weights.items())
    assert rows[0]["total"] == pytest.approx(total, rel=1e-5)


def test_only_networks_with_heads_have_these_losses(tiny_config: TrainConfig, depth_shards: Path) -> None:
    torch.manual_seed(0)
    batch = collate([ShardDataset(open_shards(depth_shards, "train"))[0]])
    plain, headed = ProtoOcc(tiny_config.model), ProtoOcc(with_heads(tiny_config).model)  # type: ignore[arg-type]
    choice = choose_voxels(batch, tiny_config.loss, OCC3D)
    assert plain(batch, choice.all).pixels is None
    assert headed.eval()(batch, choice.all).pixels is None
    output = headed.train()(batch, choice.all)
    losses = compute_losses(output, batch, choice, tiny_config.loss)
    torch.autograd.backward(losses["pixels"] + losses["depth"])
    assert headed.pixel_heads is not None
    assert all(parameter.grad is not None for parameter in headed.pixel_heads.parameters())
    assert any(parameter.grad is not None for parameter in headed.image_features.parameters())


def test_dfa3d_is_taught_its_depth(tiny_config: TrainConfig, depth_shards: Path) -> None:
    """Its own head gets the loss of depth, with the published weight, and no further head."""
    model = tiny_config.model.model_copy(
        update={"depth_attention": True, "prototype_mapping": False, "prototype_optimisation": False}
    )
    torch.manual_seed(0)
    network = ProtoOcc(model)  # type: ignore[arg-type]
    batch = collate([ShardDataset(open_shards(depth_shards, "train"))[0]])
    choice = choose_voxels(batch, tiny_config.loss, OCC3D)
    losses = compute_losses(network(batch, choice.all), batch, choice, tiny_config.loss)
    assert tiny_config.loss.lambda_depth == 0.5 and "pixels" not in losses and losses["depth"].item() > 0
    torch.autograd.backward(losses["depth"])
    assert network.encoder.depth_head is not None
    assert all(parameter.grad is not None for parameter in network.encoder.depth_head.parameters())
    assert panoocc_small_dfa3d().depth_attention


def test_points_land_in_their_pixels(depth_shards: Path) -> None:
    keyframe = ShardDataset(open_shards(depth_shards, "train"))[1]
    assert keyframe.depth_m is not None and keyframe.pixel_classes is not None
    assert keyframe.depth_m.nonzero()[0].tolist() == [0, 0, 1]
    assert [float(keyframe.depth_m[place]) for place in ((0, 1, 3), (0, 20, 11), (1, 31, 63))] == [2.5, 12.0, 40.0]
    assert keyframe.pixel_classes[0, 1, 3] == CAR and keyframe.pixel_classes[0, 20, 11] == ROAD
    assert (keyframe.pixel_classes != OCC3D.ignored).sum() == 2
    batch = collate([keyframe])
    assert batch.depth_m is not None and batch.depth_m.shape == (1, 2, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": [3, 10, WIDTH]}, "the images are 64 x 32"),
        ({"v": [HEIGHT, 20, 31]}, "the images are 64 x 32"),
        ({"depth_m": [2.5, 0.0, 1.0]}, "not above 0"),
        ({"depth_m": [2.5, np.nan, 1.0]}, "not above 0"),
        ({"label": [4, 77, 0]}, "holds class 77"),
        ({"count": [2, 2]}, "expected"),
        ({"count": [2, 2**32 - 1]}, "expected"),
        ({"count": [3]}, "expected"),
        ({"u": None}, "'u' is missing"),
    ],
)
def test_damaged_points_are_refused(change: dict[str, list[float] | None], message: str) -> None:
    with np.load(io.BytesIO(make_depth_member(0, OCC3D))) as file:
        arrays = dict(file)
    for name, values in change.items():
        if values is None:
            del arrays[name]
        else:
            arrays[name] = np.array(values).astype(arrays[name].dtype)
    stored = io.BytesIO()
    np.savez_compressed(stored, **arrays)
    with pytest.raises(DataError, match=message):
        decode_depth_points("here", stored.getvalue(), INFO)
