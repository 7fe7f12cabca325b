"""Pieces of Symphonies against loops and numbers worked out by hand."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from protoocc.batch import Batch
from protoocc.model.projection import query_centers
from protoocc.model.symphonies.config import SymphoniesConfig
from protoocc.model.symphonies.head import DilatedSum, OwnHead
from protoocc.model.symphonies.instances import instance_cells
from protoocc.model.symphonies.layers import Listen, Look
from protoocc.model.symphonies.pixel_decoder import DecodedFeatures, points_at, sine_waves
from protoocc.model.symphonies.squeeze import SqueezedPositions, squeeze, squeezed_place, unsqueeze
from schemas.geometry import VoxelGrid

GRID = VoxelGrid(minimum_m=(0.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 4))
SMALL = SymphoniesConfig(
    grid=GRID,
    backbone="resnet18",
    backbone_width=8,
    channels=8,
    pixel_decoder_layers=1,
    pixel_decoder_channels=16,
    pixel_decoder_ffn=8,
    query_shape=(4, 4, 2),
    position_parts=(1, 1, 1),
    heads=2,
    points=2,
    ffn_channels=8,
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# --- the squeezed scene


def test_squeezing_interleaves_heights_with_rows() -> None:
    scene = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4, 1)
    image = squeeze(scene)
    assert image.shape == (2, 1, 12, 5)
    for x in range(3):
        for y in range(5):
            for z in range(4):
                assert torch.equal(image[:, 0, x * 4 + z, y], scene[:, x, y, z, 0])
    assert torch.equal(unsqueeze(image, 4), scene)


def test_place_on_the_squeezed_map_is_the_middle_of_the_cell() -> None:
    """Bilinear sampling there gives the cell itself."""
    scene = normal(1, 3, 5, 4, 2)
    index = torch.cartesian_prod(torch.arange(3), torch.arange(5), torch.arange(4))
    place = squeezed_place(index, (3, 5, 4))
    read = functional.grid_sample(squeeze(scene), place[None, None] * 2 - 1, align_corners=False)[0, :, 0].T
    torch.testing.assert_close(read, scene.flatten(0, 3))


def test_positions_take_three_entries_of_small_tables() -> None:
    """As the docstring says, entry by entry, then the linear map of the three next to each other."""
    torch.manual_seed(0)
    positions = SqueezedPositions((3, 2, 8), (2, 2, 1), 6)
    assert [len(table) for table in positions.axes] == [6, 4, 2]
    along_x, along_y, along_z = positions.axes
    found = positions()
    for x in range(3):
        for y in range(2):
            for z in range(8):
                k, i, j = z // 4, z // 2 % 2, z % 2
                entries = torch.cat([along_x[2 * x + i], along_y[2 * y + j], along_z[k]])
                torch.testing.assert_close(found[x, y, z], positions.project(entries))


def test_positions_have_the_published_tables_and_those_of_other_sizes() -> None:
    """(128, 128, 2) x (2, 2, 1) for the published network, (128, 128, 4) for Base and (64, 64, 2) for Small."""
    for shape, sizes in (
        ((128, 128, 8), [256, 256, 2]),
        ((128, 128, 16), [256, 256, 4]),
        ((64, 64, 8), [128, 128, 2]),
    ):
        assert [len(table) for table in SqueezedPositions(shape, (2, 2, 1), 8).axes] == sizes


# --- attention


def test_listening_is_attention_to_the_instances_of_the_same_sample() -> None:
    """Torch's own attention on projected queries, keys and values, head by head; samples of 3 and 1 rows."""
    torch.manual_seed(0)
    listen, rows, places, told = Listen(SMALL, hidden=None), normal(4, 8), normal(4, 8) + 1.0, normal(2, 5, 8)
    found = listen(rows, places, told, [3, 1])
    weight, bias = listen.attention.in_proj_weight.chunk(3), listen.attention.in_proj_bias.chunk(3)
    asking = functional.layer_norm(rows, (8,)) + places
    for sample, part in enumerate((slice(0, 3), slice(3, 4))):
        inputs = (asking[part], told[sample], told[sample])
        q, k, v = (
            functional.linear(x, w, b).unflatten(-1, (2, 4)).mT.unflatten(0, (1, -1))
            for x, w, b in zip(inputs, weight, bias, strict=True)
        )
        heard = functional.scaled_dot_product_attention(
            q.permute(0, 3, 1, 2), k.permute(0, 3, 1, 2), v.permute(0, 3, 1, 2)
        )
        joined = heard[0].permute(1, 0, 2).flatten(1)
        torch.testing.assert_close(found[part], rows[part] + listen.attention.out_proj(joined))


def test_looking_reads_the_map_around_the_given_place() -> None:
    """With offsets and preferences at zero all points lie on the reference: norm, residual and linear maps remain."""
    torch.manual_seed(0)
    look, rows, image = Look(SMALL, levels=1, points=2, hidden=None), normal(3, 8), normal(2, 8, 4, 6)
    torch.nn.init.zeros_(look.attention.offsets.bias)
    cells = [(0, 1, 2), (0, 3, 5), (1, 0, 0)]
    reference = torch.tensor([[(u + 0.5) / 6, (v + 0.5) / 4] for _, v, u in cells])
    found, _ = look(rows, None, [image], points_at(reference, [2, 1]))
    read = torch.stack([image[n, :, v, u] for n, v, u in cells])
    expected = rows + look.attention.combine(look.attention.value(read))
    torch.testing.assert_close(found, expected)


# --- instances


def pinhole(depth: torch.Tensor | None) -> Batch:
    """One camera at the origin that looks along x: 20 x 40 pixels, focal length 10, centre (20, 10)."""
    return Batch(
        images=torch.zeros(1, 1, 3, 20, 40, dtype=torch.uint8),
        image_from_camera=torch.tensor([[[[10.0, 0, 20], [0, 10, 10], [0, 0, 1]]]]),
        camera_from_ego=torch.tensor([[[[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]]]),
        tokens=["a"],
        input_depth_m=depth,
    )


def test_instances_lie_where_their_pixels_do() -> None:
    """By hand: (u, v) = (30, 10) at depth 3 is (3, -3, 0); (20.5, 10.5) at depth 2 is (2, -0.1, -0.1)."""
    depth = torch.zeros(1, 1, 20, 40)
    depth[0, 0, 10, 30], depth[0, 0, 10, 20] = 3.0, 2.0
    places = torch.tensor([[30.01 / 40, 10.01 / 20], [20.5 / 40, 10.5 / 20]])
    cells = instance_cells(places, pinhole(depth), GRID, (8, 8, 4), reads_depth=True)
    assert cells.tolist() == [[[3, 0, 0], [2, 3, 0]]]


def test_instances_without_depth_take_that_of_the_nearest_pixel_or_of_the_middle() -> None:
    """One pixel of depth 6 lends it to all; without any depth, or unread, the middle of the scene is 4 m away.

    (20.01, 9.99) looks straight ahead and a little to the right and up; (39, 10) leaves the scene and is clamped.
    """
    depth = torch.zeros(1, 1, 20, 40)
    places = torch.tensor([[20.01 / 40, 9.99 / 20], [39.0 / 40, 10.01 / 20]])
    for given, reads in ((depth, True), (None, True), (depth + 2.0, False)):
        cells = instance_cells(places, pinhole(given), GRID, (8, 8, 4), reads_depth=reads)
        assert cells.tolist() == [[[4, 3, 1], [4, 0, 0]]]
    depth[0, 0, 3, 3] = 6.0
    cells = instance_cells(places, pinhole(depth), GRID, (4, 4, 2), reads_depth=True)
    assert cells.tolist() == [[[3, 1, 0], [3, 0, 0]]]


# --- the pixel decoder


def test_sine_waves() -> None:
    """Rows first, sine beside cosine, frequencies 1 and 1/100 for eight channels."""
    waves = sine_waves(4, 3, 8)
    for row in range(4):
        for column in range(3):
            down, right = 2 * math.pi * (row + 1) / 4, 2 * math.pi * (column + 1) / 3
            expected = [f(p * s) for p in (down, right) for s in (1.0, 0.01) for f in (math.sin, math.cos)]
            torch.testing.assert_close(waves[row, column], torch.tensor(expected))


def test_stride_4_leaves_the_backbone_as_it_is_and_the_others_see_all_scales() -> None:
    torch.manual_seed(0)
    features = DecodedFeatures(SMALL).eval()
    images = torch.randint(0, 255, (2, 3, 40, 64), dtype=torch.uint8)
    found = features(images)
    assert [scale.shape for scale in found] == [(2, 8, 16, 16), (2, 8, 8, 8), (2, 8, 4, 4)]
    scales = features.resnet(features.normalised(images))
    torch.testing.assert_close(found[0], features.narrow[0](scales[4]))
    coarse = {stride: scale + (stride == 32) for stride, scale in scales.items()}
    one, other = features.encode(scales), features.encode(coarse)
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
    torch.testing.assert_close(features(images[1:])[2], found[2][1:], rtol=1e-4, atol=1e-5)


# --- what follows the layers


def test_own_head_doubles_the_height_first() -> None:
    assert SymphoniesConfig().doublings == (1, 1)
    assert SymphoniesConfig(query_shape=(128, 128, 16)).doublings == (0, 1)
    assert SymphoniesConfig(query_shape=(64, 64, 8)).doublings == (0, 2)


def test_own_head_classifies_chosen_voxels() -> None:
    """Voxels of a volume twice as large along all axes, in their order; a cell reaches no further than its neighbours.

    The transposed convolution puts cell i on voxel 2 i and reaches one voxel to each side.
    """
    torch.manual_seed(0)
    head = OwnHead(SMALL).eval()
    scene, voxels = normal(2, 4, 4, 2, 8), torch.tensor([511, 0, 256, 300])
    every = head(scene)
    assert every.shape == (512, 20)
    torch.testing.assert_close(head(scene, voxels), every[voxels])
    other = scene.clone()
    other[1, 2, 1, 1] += 1.0
    moved = (head(other) - every).abs().sum(-1).view(2, 8, 8, 4) > 1e-7
    where = moved.nonzero()
    assert where.amin(0).tolist() == [1, 3, 1, 1] and where.amax(0).tolist() == [1, 5, 3, 3]


def test_dilated_sum_adds_blocks_to_the_scene() -> None:
    """Blocks of weight zero leave the scene's positive part; dilation 3 reaches three cells twice."""
    torch.manual_seed(0)
    dilated, scene = DilatedSum(8, (3,)).eval(), normal(1, 9, 13, 5, 8)
    other = scene.clone()
    other[0, 4, 6, 2, 3] += 5.0
    where = ((dilated(other) - dilated(scene)).abs().sum(-1) > 1e-7)[0].any(2).nonzero()
    assert {int(y) for _, y in where} <= {0, 3, 6, 9, 12} and len({int(y) for _, y in where}) == 5
    for block in dilated.blocks:
        torch.nn.init.zeros_(block[4].weight)
    torch.testing.assert_close(dilated(scene), scene.relu())


def test_scene_queries_lie_at_the_centres_of_their_cells() -> None:
    assert query_centers(GRID, (4, 4, 2))[1, 0, 1].tolist() == [3.0, -3.0, 2.0]
