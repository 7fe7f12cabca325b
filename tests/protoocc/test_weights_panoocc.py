"""PanoOcc's checkpoints: names and shapes at full size, and its layers computed literally in its own axes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from protoocc.config import WeightsConfig
from protoocc.model import ProtoOcc, ProtoOccConfig, UpsampleStage, panoocc_small
from protoocc.model.encoder import CameraViews
from protoocc.model.projection import HitQueries
from protoocc.weights import WeightsFile, check_weights, fill
from schemas.errors import CheckpointError
from schemas.geometry import VoxelGrid
from tests.protoocc import published_weights as published

SIZE = published.Size((3, 4, 6, 3), width=8, channels=8, h=4, w=3, z=2, layers=2, heads=2, points=2, ffn=12, up=(6, 5))
HOST = {"backbone_style": "caffe", "deformable_stages": (3, 4), "stride_64": "convolution"}
LAYER = "pts_bbox_head.transformer.cam_encoder.layers.1."


def wrap(tensors: dict[str, Tensor], settings: str = "") -> WeightsFile:
    return WeightsFile(WeightsConfig(file="panoocc.pth", sha256="0" * 64, format="panoocc"), tensors, settings)


def small_config(**changes: object) -> ProtoOccConfig:
    """A host network of the sizes above: x has 3 cells (w), y has 4 (h)."""
    fields: dict[str, object] = {
        **HOST,
        "grid": VoxelGrid(minimum_m=(-6.0, -8.0, -1.0), voxel_size_m=1.0, shape=(12, 16, 2)),
        "backbone_width": 8,
        "channels": 8,
        "query_shape": (3, 4, 2),
        "encoder_layers": 2,
        "heads": 2,
        "points": 2,
        "ffn_channels": 12,
        "frames": 4,
        "prototype_mapping": False,
        "prototype_optimisation": False,
        "multi_perspective": False,
        "upsample": (
            UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=6),
            UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=5),
        ),
    }
    return ProtoOccConfig.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return published.numbers(published.panoocc(SIZE))


@pytest.fixture(scope="module")
def network(tensors: dict[str, Tensor]) -> ProtoOcc:
    model = ProtoOcc(small_config()).eval()
    fill(model, wrap(tensors))
    return model


def test_full_size_fills_every_part_of_the_host() -> None:
    """PanoOcc-Small: all of backbone, pyramid and view transformation, and the upsampling of the decoder."""
    shapes = published.panoocc(published.Size())
    file = wrap({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    config = panoocc_small().model_copy(update={**HOST, "backbone": "resnet101"})
    report = check_weights(config, file)
    assert [report.share(part) for part in ("backbone", "pyramid", "view transformation")] == [1.0, 1.0, 1.0]
    # 3 layers of 971,328; fusion 2,361,344 and its 4 x 512 statistics; 5 scales; 40,000 queries; 50 + 50 + 16 places
    filled = next(part.filled for part in report.parts if part.part == "view transformation")
    assert filled == 3 * 971_328 + 2_361_344 + 2_048 + 5 * 256 + 40_000 * 256 + 116 * 256
    reasons = {name: group.reason for group in report.groups for name in group.names}
    assert "cameras carry no embedding" in reasons["pts_bbox_head.transformer.cams_embeds"]
    assert "CAN bus" in reasons["pts_bbox_head.transformer.can_bus_mlp.0.weight"]
    assert "no boxes" in reasons["pts_bbox_head.query_embedding.weight"]
    assert "pts_bbox_head.transformer.voxel_decoder.upsample.0.weight" not in reasons
    assert not any(reason.startswith("no part of") for reason in reasons.values())


def test_query_table_and_positions(network: ProtoOcc, tensors: dict[str, Tensor]) -> None:
    """Row (y * w + x) * z_count + z of the table is voxel (x, y, z); rows run along y, columns along x."""
    embeddings = [tensors[f"pts_bbox_head.positional_encoding.{axis}_embed.weight"] for axis in ("col", "row", "z")]
    table = tensors["pts_bbox_head.bev_embedding.weight"]
    positions = network.voxel_queries.positions()
    for x, y, z in itertools.product(range(SIZE.w), range(SIZE.h), range(SIZE.z)):
        assert torch.equal(network.voxel_queries.table[x, y, z], table[(y * SIZE.w + x) * SIZE.z + z])
        expected = embeddings[0][x] + embeddings[1][y] + embeddings[2][z]
        torch.testing.assert_close(positions[x, y, z], expected)


def bilinear(values: Tensor, u: float, v: float) -> Tensor:
    """Value (c) of a map (H, W, c) at the share (u, v) of its width and height; zero outside, cell centres at + 0.5."""
    height, width, channels = values.shape
    column, row = u * width - 0.5, v * height - 0.5
    left, top = math.floor(column), math.floor(row)
    result = values.new_zeros(channels)
    for y, x in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= y < height and 0 <= x < width:
            result = result + (1 - abs(row - y)) * (1 - abs(column - x)) * values[y, x]
    return result


def apply(tensors: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """A linear map of the file's layer."""
    return functional.linear(values, tensors[f"{LAYER}{name}.weight"], tensors[f"{LAYER}{name}.bias"])


def literal_self_attention(tensors: dict[str, Tensor], queries: Tensor, positions: Tensor) -> Tensor:
    """PanoOcc's first attention in its own axes (y, x, z, d), slice by slice: offsets (along x, along y)."""
    heads, points, c = SIZE.heads, SIZE.points, SIZE.channels // SIZE.heads
    values = apply(tensors, "attentions.0.value_proj", queries).unflatten(-1, (heads, c))
    result = torch.zeros_like(queries)
    for y, x, z in itertools.product(range(SIZE.h), range(SIZE.w), range(SIZE.z)):
        both = torch.cat([queries[y, x, z], queries[y, x, z] + positions[y, x, z]])
        offsets = apply(tensors, "attentions.0.sampling_offsets", both).view(heads, 2, points, 2)
        shares = apply(tensors, "attentions.0.attention_weights", both).view(heads, 2, points).softmax(-1)
        gathered = torch.zeros(heads, c)
        for head, queue, point in itertools.product(range(heads), range(2), range(points)):
            along_x, along_y = offsets[head, queue, point].tolist()
            u, v = (x + 0.5 + along_x) / SIZE.w, (y + 0.5 + along_y) / SIZE.h
            gathered[head] += 0.5 * shares[head, queue, point] * bilinear(values[:, :, z, head], u, v)
        result[y, x, z] = apply(tensors, "attentions.0.output_proj", gathered.flatten())
    return result


def literal_cross_attention(
    tensors: dict[str, Tensor], query: Tensor, scales: list[Tensor], u: float, v: float
) -> Tensor:
    """PanoOcc's second attention of one query at one place of one camera, before the output map."""
    heads, points, c = SIZE.heads, SIZE.points, SIZE.channels // SIZE.heads
    inner = "attentions.1.deformable_attention."
    offsets = apply(tensors, f"{inner}sampling_offsets", query).view(heads, 5, points, 2)
    shares = apply(tensors, f"{inner}attention_weights", query).view(heads, 5 * points).softmax(-1)
    gathered = torch.zeros(heads, c)
    for level, scale in enumerate(scales):
        height, width = scale.shape[-2:]
        values = apply(tensors, f"{inner}value_proj", scale.permute(1, 2, 0)).unflatten(-1, (heads, c))
        for head, point in itertools.product(range(heads), range(points)):
            right, down = offsets[head, level, point].tolist()
            value = bilinear(values[:, :, head], u + right / width, v + down / height)
            gathered[head] += shares[head, level * points + point] * value
    return gathered.flatten()


def test_encoder_layer_computes_what_the_host_computes(network: ProtoOcc, tensors: dict[str, Tensor]) -> None:
    """One layer with two cameras, one query seen by both, others by one or none; x and y are unlike everywhere."""
    torch.manual_seed(0)
    queries = torch.randn(SIZE.h, SIZE.w, SIZE.z, SIZE.channels)
    positions = torch.randn(SIZE.h, SIZE.w, SIZE.z, SIZE.channels)
    scales = [torch.randn(2, SIZE.channels, height, 2 * height + 1) for height in (9, 5, 3, 2, 1)]
    seen = [(0, 1, 0), (2, 3, 1), (2, 0, 0)], [(2, 3, 1), (1, 1, 1)]  # (x, y, z) of the hits of each camera
    places = torch.rand(5, 2)

    def norm(number: int, values: Tensor) -> Tensor:
        weight, bias = (tensors[f"{LAYER}norms.{number}.{kind}"] for kind in ("weight", "bias"))
        return functional.layer_norm(values, (SIZE.channels,), weight, bias)

    with torch.no_grad():
        expected = norm(0, queries + literal_self_attention(tensors, queries, positions))
        found: dict[tuple[int, int, int], list[Tensor]] = {}
        for hit, (camera, (x, y, z)) in enumerate((number, at) for number in range(2) for at in seen[number]):
            looking = expected[y, x, z] + positions[y, x, z]
            u, v = places[hit].tolist()
            sampled = literal_cross_attention(tensors, looking, [scale[camera] for scale in scales], u, v)
            found.setdefault((x, y, z), []).append(sampled)
        slots = torch.zeros_like(expected)
        for (x, y, z), parts in found.items():
            slots[y, x, z] = torch.stack(parts).mean(0)
        expected = norm(1, expected + apply(tensors, "attentions.1.output_proj", slots))
        hidden = apply(tensors, "ffns.0.layers.0.0", expected).relu()
        expected = norm(2, expected + apply(tensors, "ffns.0.layers.1", hidden))

        rows = torch.tensor([(x * SIZE.h + y) * SIZE.z + z for camera in seen for x, y, z in camera])
        hits = HitQueries(rows, rows, places[:, None], torch.ones(5, 1), [3, 2])
        ours, _ = network.encoder.layers[1](
            queries.transpose(0, 1)[None], positions.transpose(0, 1), CameraViews(scales, None, hits, None)
        )
    torch.testing.assert_close(ours[0].transpose(0, 1), expected, atol=1e-5, rtol=1e-5)


def batch_norm(tensors: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """A norm of the file with its stored statistics."""
    kinds = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(values, *(tensors[f"{name}.{kind}"] for kind in kinds))


def test_fusion_of_frames(network: ProtoOcc, tensors: dict[str, Tensor]) -> None:
    """PanoOcc stacks frames from the oldest to the present one in axes (z, y, x)."""
    torch.manual_seed(0)
    frames = [torch.randn(1, SIZE.w, SIZE.h, SIZE.z, SIZE.channels) for _ in range(4)]  # ours, the present one first
    stacked = torch.cat([frame.permute(0, 4, 3, 2, 1) for frame in reversed(frames)], dim=1)
    block = "pts_bbox_head.transformer.temporal_encoder.temporal_block.0."
    with torch.no_grad():
        path = batch_norm(tensors, f"{block}bn1", functional.conv3d(stacked, tensors[f"{block}conv1.weight"])).relu()
        path = functional.conv3d(path, tensors[f"{block}conv2.weight"], padding=1)
        path = functional.conv3d(batch_norm(tensors, f"{block}bn2", path).relu(), tensors[f"{block}conv3.weight"])
        shortcut = functional.conv3d(stacked, tensors[f"{block}downsample.0.weight"])
        expected = (
            batch_norm(tensors, f"{block}bn3", path) + batch_norm(tensors, f"{block}downsample.1", shortcut)
        ).relu()
        assert network.temporal_fusion is not None
        fused = network.temporal_fusion(frames)
    torch.testing.assert_close(fused.permute(0, 4, 3, 2, 1), expected, atol=1e-5, rtol=1e-5)


def test_upsampling(network: ProtoOcc, tensors: dict[str, Tensor]) -> None:
    """Two transposed convolutions with kernels (z, y, x) = (1, 4, 4), norm and ReLU between them."""
    torch.manual_seed(0)
    queries = torch.randn(1, SIZE.w, SIZE.h, SIZE.z, SIZE.channels)
    up = "pts_bbox_head.transformer.voxel_decoder.upsample."

    def twice(stage: int, volume: Tensor) -> Tensor:
        weight, bias = tensors[f"{up}{3 * stage}.weight"], tensors[f"{up}{3 * stage}.bias"]
        return functional.conv_transpose3d(volume, weight, bias, stride=(1, 2, 2), padding=(0, 1, 1))

    with torch.no_grad():
        volume = batch_norm(tensors, f"{up}1", twice(0, queries.permute(0, 4, 3, 2, 1))).relu()
        expected = twice(1, volume).permute(0, 4, 3, 2, 1)
        ours = network.decoder.upsample(queries, torch.arange(12 * 16 * 2)).view(1, 12, 16, 2, 5)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_pyramid(network: ProtoOcc, tensors: dict[str, Tensor]) -> None:
    """Laterals, sums from the top down, 3 x 3 convolutions, and a strided one on the last output."""
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)

    def neck(name: str, values: Tensor, **options: int) -> Tensor:
        weight, bias = (tensors[f"img_neck.{name}.conv.{kind}"] for kind in ("weight", "bias"))
        return functional.conv2d(values, weight, bias, **options)

    with torch.no_grad():
        colours = images.flip(1).float() - torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
        stages = list(network.image_features.resnet(colours).values())
        laterals = [neck(f"lateral_convs.{level}", stage) for level, stage in enumerate(stages)]
        for level in (2, 1, 0):
            laterals[level] = laterals[level] + functional.interpolate(
                laterals[level + 1], size=laterals[level].shape[2:]
            )
        expected = [neck(f"fpn_convs.{level}", lateral, padding=1) for level, lateral in enumerate(laterals)]
        expected.append(neck("fpn_convs.4", expected[3], stride=2, padding=1))
        ours = network.image_features(images)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)


def test_single_frame_network_leaves_the_fusion_out(tensors: dict[str, Tensor]) -> None:
    """All the rest is filled, and the report says how to read the block."""
    report = check_weights(small_config(frames=1), wrap(tensors))
    assert report.share("view transformation") == 1.0
    assert any("model.frames=4" in group.reason and len(group.names) == 24 for group in report.groups)


def test_prototype_mapping_is_reported_as_missing(tensors: dict[str, Tensor]) -> None:
    """ProtoOcc's own tensors keep their random start; the file fills the rest."""
    config = small_config(prototype_mapping=True, prototype_optimisation=True)
    file = wrap(tensors)
    file = WeightsFile(file.record.model_copy(update={"least_share": 0.5}), file.tensors, "")
    report = check_weights(config, file)
    missing = [group for group in report.groups if group.fate == "missing" and group.part == "view transformation"]
    assert [group.reason for group in missing] == ["ProtoOcc's own, in no published file"]
    assert all(".mapping." in name or ".pixel_features." in name for name in missing[0].names)


def test_other_query_size_is_refused(tensors: dict[str, Tensor]) -> None:
    """A checkpoint of 3 x 4 x 2 queries in a network of 6 x 8 x 2 fills too little; the shapes are named."""
    config = small_config(
        query_shape=(6, 8, 2), upsample=(UpsampleStage(kernel=(2, 2, 1), stride=(2, 2, 1), channels=5),)
    )
    with pytest.raises(CheckpointError, match="of the view transformation, at least 90 %") as caught:
        check_weights(config, wrap(tensors))
    assert "(3, 4, 2, 8) in the network's axes, voxel_queries.table is (6, 8, 2, 8)" in str(caught.value)


def test_checkpoint_of_another_space_is_refused(tensors: dict[str, Tensor]) -> None:
    """The panoptic checkpoints have the same names and shapes and another extent."""
    ours = "point_cloud_range = [-6, -8.0, -1.0, 6, 8, 1]\nvoxel_size = [0.2, 0.2, 8]\n"
    check_weights(small_config(), wrap(tensors, ours))
    other = "point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]\n"
    with pytest.raises(CheckpointError, match=r"trained on the space \(-51.2, .* grid spans \(-6.0, -8.0, -1.0, 6.0"):
        check_weights(small_config(), wrap(tensors, other))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{LAYER}attentions.0.sampling_offsets.bias", (17,)),
        ("pts_bbox_head.transformer.temporal_encoder.temporal_block.0.conv1.weight", (8, 32)),
        ("pts_bbox_head.transformer.voxel_decoder.upsample.0.weight", (8,)),
        ("pts_bbox_head.bev_embedding.weight", (23, 8)),
    ],
)
def test_tensors_of_odd_shapes_are_reported(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    """A tensor whose axes cannot be turned is named, not a crash."""
    odd = wrap({**tensors, name: torch.zeros(shape)})
    odd = WeightsFile(odd.record.model_copy(update={"least_share": 0.3}), odd.tensors, "")
    report = check_weights(small_config(), odd)
    assert [group.fate for group in report.groups if name in group.names] == ["unexpected"]
