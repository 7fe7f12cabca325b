"""MonoScene: line-of-sight gathering by hand, the 3D network's shapes on both data sets, and what it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protoocc.batch import Batch
from protoocc.checkpoint import load_network
from protoocc.config import TrainConfig, WeightsConfig
from protoocc.data import open_shards
from protoocc.evaluate import score
from protoocc.hosts import build_network
from protoocc.inference import predict
from protoocc.model.context_relations import ContextRelations
from protoocc.model.convolutions3d import Bottleneck3d
from protoocc.model.image_unet import ImageUNet
from protoocc.model.line_of_sight import gather_pixels
from protoocc.model.monoscene import MonoScene, MonoSceneConfig
from protoocc.model.projection import HitQueries
from protoocc.model.unet3d import UNet3d
from protoocc.presets import PRESETS
from protoocc.trainer import train
from protoocc.weights import WeightsFile, check_weights
from schemas.classes import OCC3D
from schemas.errors import CheckpointError
from schemas.geometry import SEMANTICKITTI_GRID, VoxelGrid
from tests.protoocc.conftest import GRID
from tests.protoocc.reference.rigs import look_along, with_cameras
from tests.protoocc.reference.rigs import random_batch as precise_batch
from tests.protoocc.small_scene import take_steps


def tiny(**changes: object) -> MonoSceneConfig:
    """8 x 8 x 4 cells of one voxel each, on the smallest residual network."""
    fields: dict[str, object] = {
        "grid": GRID,
        "backbone": "resnet18",
        "backbone_width": 8,
        "strides": (4, 8, 16, 32),
        "channels": 8,
        "width": 16,
        "voxels_per_cell": 1,
        "context_relations": 0,
    }
    return MonoSceneConfig.model_validate(fields | changes)


def random_batch(grid: VoxelGrid, samples: int = 1) -> Batch:
    batch = precise_batch(grid, samples)
    matrices = {"image_from_camera": batch.image_from_camera, "camera_from_ego": batch.camera_from_ego}
    return dataclasses.replace(batch, **{name: matrix.float() for name, matrix in matrices.items()})


def test_points_take_the_pixel_they_land_on() -> None:
    """Maps of 2 x 4 and 1 x 2 cells: nothing is interpolated, and the borders of cells belong to the next one.

    (0.3, 0.6) lies in column 1 of 4 and row 1 of 2 of the fine map, so 6, and in column 0 of the coarse one, so 10.
    """
    fine, coarse = torch.arange(1.0, 9.0).view(1, 1, 2, 4), torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    second = [fine + 100.0, coarse]
    maps = [torch.cat([one, two]) for one, two in zip([fine, coarse], second, strict=True)]
    places = torch.tensor([[0.3, 0.6], [0.5, 0.0], [0.999, 0.499], [0.3, 0.6]])[:, None]
    rows = torch.tensor([4, 0, 1, 4])
    hits = HitQueries(rows, rows, places, torch.ones(4, 1), [3, 1])
    expected = torch.tensor([6.0 + 10.0, 3.0 + 20.0, 4.0 + 20.0, 106.0 + 10.0])
    torch.testing.assert_close(gather_pixels(maps, hits)[:, 0], expected)


def test_cells_along_a_ray_share_their_features_and_unseen_ones_have_none() -> None:
    """A camera at the ego origin's height 1 m that looks forward, 64 x 32 pixels, focal length 32: literally.

    The pixel of a point (x, y, z) is u = 32 - 32 y / x, v = 16 - 32 (z - 1) / x; a map of stride 1 that holds the
    number of each pixel shows which one was taken.
    """
    network = MonoScene(tiny(channels=16))
    numbers = torch.arange(32.0 * 64).view(1, 1, 32, 64).expand(-1, 16, -1, -1)
    intrinsics = torch.tensor([[32.0, 0.0, 32.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]])
    hits = network.find_hits((32, 64), intrinsics[None, None], look_along(0.0, 1.0).float()[None, None])
    cells = network.lift([numbers], hits, 1)[0, ..., 0]
    for x in range(8):
        for y in range(8):
            for z in range(4):
                east, north, up = x - 3.5, y - 3.5, z - 0.5
                expected = 0.0
                if east > 0:
                    u, v = 32 - 32 * north / east, 16 - 32 * (up - 1) / east
                    expected = int(v) * 64 + int(u) if 0 <= u < 64 and 0 <= v < 32 else 0.0
                assert cells[x, y, z] == expected, (x, y, z)
    assert (cells > 0).sum() > 20


def test_several_cameras_give_their_mean() -> None:
    """Two cameras at the same place with maps of 2 and 6: what both see is 4."""
    network = MonoScene(tiny(channels=16))
    maps = torch.stack([torch.full((16, 8, 16), 2.0), torch.full((16, 8, 16), 6.0)])
    intrinsics = torch.tensor([[32.0, 0.0, 32.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]]).repeat(1, 2, 1, 1)
    pose = look_along(0.0, 1.0).float().repeat(1, 2, 1, 1)
    hits = network.find_hits((32, 64), intrinsics, pose)
    assert set(network.lift([maps], hits, 1).unique().tolist()) == {0.0, 4.0}


def test_image_unet_gives_maps_of_strides_1_to_8() -> None:
    """Images of 40 x 70 are padded to 64 x 96."""
    network = ImageUNet(tiny(), "resnet").eval()
    maps = network(torch.zeros(2, 3, 40, 70, dtype=torch.uint8))
    assert [tuple(each.shape) for each in maps] == [(2, 8, 64 // s, 96 // s) for s in (1, 2, 4, 8)]


def test_a_pixel_of_the_image_reaches_the_finest_map() -> None:
    """The image itself is joined at stride 1: two 3 x 3 convolutions spread one changed pixel over 5 x 5 cells."""
    torch.manual_seed(0)
    network = ImageUNet(tiny(), "resnet").eval()
    images = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    changed = images.clone()
    changed[..., 7, 9] = 255
    before, after = network(images)[0], network(changed)[0]
    difference = (after - before).abs().sum(1)[0]
    assert difference[5:10, 7:12].max() == difference.max() > 0


@pytest.mark.parametrize("size", [(128, 128, 16), (100, 100, 8), (8, 8, 4)])
def test_3d_network_keeps_the_edges_of_both_data_sets(size: tuple[int, int, int]) -> None:
    """SemanticKITTI's cells, Occ3D's, and tiny ones; shapes alone are computed."""
    with torch.device("meta"):
        network, volume = UNet3d(16, size, relations=2 if min(size) >= 8 else 0), torch.zeros(1, 16, *size)
    assert network(volume).shape == volume.shape


def test_bottleneck_adds_what_each_direction_found() -> None:
    """With norms at rest and single taps: reduce, then z, y = f(z) + z, x = g(y) + y + z, expand, and the input."""
    block = Bottleneck3d(4, 4).eval()
    scale = 1.0 / (1.0 + 1e-5) ** 0.5  # of a norm whose statistics are 0 and 1
    taps = {"reduce": 2.0, "along_z": 3.0, "along_y": 5.0, "along_x": 7.0, "expand": 0.5}
    with torch.no_grad():
        for name, value in taps.items():
            weight = getattr(block, name)[0].weight
            weight.zero_()
            weight[(..., *(edge // 2 for edge in weight.shape[2:]))] = value
    one = torch.ones(1, 4, 2, 2, 2)
    reduced = 4 * 2.0 * scale
    z = 3.0 * reduced * scale
    y = 5.0 * z * scale + z
    x = 7.0 * y * scale + y + z
    torch.testing.assert_close(block(one), torch.full_like(one, 0.5 * x * scale + 1.0))


def test_context_sums_large_cells_by_their_shares() -> None:
    """The literal sum over large cells, for the relation of one cell."""
    torch.manual_seed(1)
    context = ContextRelations(8, (4, 4, 2), relations=1).eval()
    seen: list[Tensor] = []
    context.mix.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    cells = torch.randn(1, 8, 4, 4, 2)
    context(cells)
    wide = context.widen(cells)
    large, logits = context.large(wide).flatten(2)[0], context.shares[0](wide)[0]
    assert large.shape == (16, 2 * 2 * 1)
    expected = sum(torch.sigmoid(logits[number, 1, 2, 0]) * large[:, number] for number in range(4))
    torch.testing.assert_close(seen[0][0, 8:, 1, 2, 0], expected)


def convolution(inputs: int, outputs: int, taps: int, *, bias: bool = False, norm: bool = True) -> int:
    """Parameters of a convolution and its norm."""
    return inputs * outputs * taps + outputs * bias + 2 * outputs * norm


def bottleneck(channels: int, outputs: int) -> int:
    """Parameters of a block; the three inner shortcuts are there without a stride as well, where nothing uses them."""
    inner = channels // 4
    own = convolution(channels, inner, 1) + 3 * convolution(inner, inner, 3) + convolution(inner, outputs, 1)
    return own + 3 * convolution(inner, inner, 1) + (convolution(channels, outputs, 1) if outputs != channels else 0)


def test_published_size() -> None:
    """Added up by hand from the public code and configuration: width 64, EfficientNet-B7, four relations, 20 classes.

    That code holds more than its output uses: a map of stride 16, and shortcuts in the blocks of stride 1.
    """
    with torch.device("meta"):
        network = build_network(PRESETS["monoscene"]().model)
        encoder = 66_347_960 - 2561 * 1000  # torchvision's count less its classifier
    skips, widths = (224, 80, 48, 32, 3), (2560, 1280, 640, 320, 160, 80)
    decoder = convolution(2560, 2560, 1, bias=True, norm=False)
    for skip, above, width in zip(skips, widths[:-1], widths[1:], strict=True):
        decoder += convolution(above + skip, width, 9, bias=True) + convolution(width, width, 9, bias=True)
        decoder += convolution(width, 64, 1, bias=True, norm=False)
    pyramid = {channels: 6 * convolution(channels, channels, 27) for channels in (32, 256)}
    volume = 3 * bottleneck(64, 64) + bottleneck(64, 128) + 3 * bottleneck(128, 128) + bottleneck(128, 256)
    for inputs in (256, 128, 64):
        volume += convolution(inputs, inputs // 2, 27, bias=True)
    relations = pyramid[256] + convolution(256, 512, 27, bias=True, norm=False) + bottleneck(256, 256)
    relations += 4 * convolution(256, 512, 1, bias=True, norm=False) + convolution(4 * 512 + 256, 256, 1, norm=False)
    head = pyramid[32] + convolution(32, 32 + 20, 27, bias=True, norm=False)
    unused = convolution(1280, 64, 1, bias=True, norm=False)
    unused += sum(3 * convolution(inner, inner, 1) for inner in (16, 16, 16, 32, 32, 32, 64))
    published = encoder + decoder + volume + relations + head
    assert published == 149_555_444
    assert sum(parameter.numel() for parameter in network.parameters()) == published - unused


def test_voxels_are_classified_where_they_are() -> None:
    """Chosen voxels get the logits that all of them have, in their order."""
    torch.manual_seed(0)
    network, batch = MonoScene(tiny()).eval(), random_batch(GRID, samples=2)
    chosen = torch.tensor([500, 3, 17])
    whole = network(batch)
    assert whole.logits.shape == (1, 2 * 8 * 8 * 4, 18)
    torch.testing.assert_close(network(batch, chosen).logits, whole.logits[:, chosen])
    assert network.predict(batch).shape == (2, 8, 8, 4)


def test_weights_of_a_residual_network_are_refused_without_one() -> None:
    config = PRESETS["monoscene"]().model
    with pytest.raises(CheckpointError, match="no residual network, and resnet.pth .* model.image_encoder=resnet"):
        check_weights(config, WeightsFile(WeightsConfig(file="resnet.pth", sha256="0", format="torchvision"), {}, ""))


def test_wrong_settings_are_refused() -> None:
    wrong = {
        "multiple of 8": {"voxels_per_cell": 2},
        "context_relations need 8 cells": {"context_relations": 1},
        "reads one frame": {"frames": 2},
        "decodes \\(4, 8, 16, 32\\)": {"strides": (4, 8)},
        "needs image_decoder unet": {"image_encoder": "efficientnet_b7", "image_decoder": "pyramid"},
        "no frozen_stages": {"image_encoder": "efficientnet_b7", "frozen_stages": 1},
        "no heads": {"pixel_depth": True},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            tiny(**changes)


def test_it_learns() -> None:
    torch.manual_seed(0)
    losses = take_steps(MonoScene(tiny()).train(), random_batch(GRID, samples=2), 8, 1e-2)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("decoder", ["unet", "pyramid"])
def test_it_trains_and_scores_on_shards(
    decoder: str, make_tiny_config: Callable[[], TrainConfig], shards: Path, tmp_path: Path
) -> None:
    config = make_tiny_config()
    fields = config.model_dump(mode="json") | {"model": tiny(image_decoder=decoder).model_dump(mode="json")}
    train(TrainConfig.model_validate(fields | {"schedule": {"steps": 2, "warmup_steps": 1}}), shards, tmp_path / "run")
    network, stored = load_network(tmp_path / "run")
    assert isinstance(network, MonoScene) and isinstance(stored.model, MonoSceneConfig)
    assert len(list(predict(network, open_shards(shards, "val")))) == 2
    assert score(tmp_path / "run", shards, "val").row("model").iou is not None


@pytest.mark.slow
def test_it_memorises_one_sample() -> None:
    """Random labels cannot be told from images; those of a scene that the cells' own places decide can."""
    torch.manual_seed(0)
    batch = random_batch(GRID)
    labels = torch.full((1, *GRID.shape), OCC3D.free)
    labels[:, :, :, 0] = OCC3D.index("driveable_surface")
    labels[:, 4:6, 2:4, 1:3] = OCC3D.index("car")
    batch = dataclasses.replace(batch, semantics=labels, mask_camera=torch.ones(labels.shape, dtype=torch.bool))
    network = MonoScene(tiny()).train()
    take_steps(network, batch, 120, 1e-2)
    agree = network.eval().predict(batch) == labels
    assert agree.float().mean() > 0.98


@pytest.mark.slow
def test_one_camera_and_the_grid_of_semantickitti() -> None:
    """256 x 256 x 32 voxels, eight channels: one prediction of every voxel."""
    config = tiny(grid=SEMANTICKITTI_GRID, voxels_per_cell=2, width=8, num_classes=20, free=0)
    network, one = MonoScene(config).eval(), with_cameras(random_batch(GRID), [0])
    assert network.predict(one).shape == (1, 256, 256, 32)
