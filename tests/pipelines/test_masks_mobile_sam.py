"""MobileSAM: its encoder against literal sums, the weights of its file, and masks of small checkpoints."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from pipelines.masks import SamConfig, make_masks
from pipelines.masks.label_map import cover_gaps
from pipelines.masks.sam import SAM, sam_generator
from pipelines.masks.sam_checkpoint import load_sam, published_sam
from pipelines.masks.sam_network import SamNetwork
from pipelines.masks.sam_small import small_sam
from pipelines.masks.tiny_vit import ConvolutionBlock, TinyVit, TinyVitSizes, WindowBlock, WindowStage
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import CheckpointError

SMALL = TinyVitSizes(
    width=4,
    depth=1,
    hidden=8,
    stages=(WindowStage(8, 1, 2, 7, 12), WindowStage(12, 2, 3, 14, 16), WindowStage(16, 1, 4, 7, 20)),
    features=16,
    classes=3,
)


def small_mobile_sam() -> Sam:
    """MobileSAM's image of 1024 px and 64x64 features, but 4 to 16 channels and few blocks; random weights."""
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=1, embedding_dim=16, num_heads=8, mlp_dim=24)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, iou_head_depth=2, iou_head_hidden_dim=20)
    return with_numbers(Sam(TinyVit(SMALL, 1024), prompts, decoder).eval())


def with_numbers(module: nn.Module, seed: int = 1) -> nn.Module:
    """Random weights, biases, tables and running statistics, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.state_dict().items():
        if name.endswith("running_var"):
            weight.uniform_(0.5, 2, generator=generator)
        elif weight.is_floating_point():
            scale = "norm" in name or ".bn." in name
            weight.normal_(float(scale and name.endswith("weight")), 0.4, generator=generator)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobile") / "small.pt"
    torch.save(small_mobile_sam().state_dict(), path)
    return path


def test_published_weights_by_part() -> None:
    """Sums of the paper's sizes: convolutions without bias, two numbers per channel of a normalisation."""
    with torch.device("meta"):
        sam = published_sam("vit_t")
    encoder = sam.image_encoder

    def merging(width: int, after: int) -> int:
        return width * after + 9 * after + after**2 + 3 * 2 * after

    def block(width: int, heads: int, window: int) -> int:
        attention = heads * window**2 + 2 * width + 4 * width**2 + 4 * width
        return attention + (9 + 2) * width + 2 * width + 8 * width**2 + 5 * width

    layers = (
        2 * (2 * 64 * 256 + 9 * 256 + 2 * (256 + 256 + 64)) + merging(64, 128),
        2 * block(128, 4, 7) + merging(128, 160),
        6 * block(160, 5, 14) + merging(160, 320),
        2 * block(320, 10, 7),
    )
    stem, neck = 9 * 3 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64, 320 * 256 + 9 * 256**2 + 4 * 256
    assert tuple(map(count, encoder.layers)) == layers == (98_944, 448_232, 2_030_520, 2_473_940)
    assert (count(encoder.patch_embed), count(encoder.neck)) == (stem, neck) == (19_488, 672_768)
    assert count(encoder) == stem + sum(layers) + neck + 2 * 320 + 1000 * (320 + 1) == 6_065_532
    assert (count(sam.prompt_encoder), count(sam.mask_decoder)) == (6_220, 4_058_340)
    assert count(sam) == 6_065_532 + 6_220 + 4_058_340 == 10_130_092


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_names_and_shapes_of_the_published_file() -> None:
    with torch.device("meta"):
        state = published_sam("vit_t").state_dict()
    shapes = {name.removeprefix("image_encoder."): tuple(weight.shape) for name, weight in state.items()}
    expected: dict[str, tuple[int, ...]] = {
        "patch_embed.seq.0.c.weight": (32, 3, 3, 3),
        "patch_embed.seq.2.bn.running_mean": (64,),
        "layers.0.blocks.1.conv2.c.weight": (256, 1, 3, 3),
        "layers.0.blocks.1.conv3.bn.num_batches_tracked": (),
        "layers.0.downsample.conv2.c.weight": (128, 1, 3, 3),
        "layers.1.blocks.0.attn.attention_biases": (4, 49),
        "layers.1.blocks.1.local_conv.bn.running_var": (128,),
        "layers.2.blocks.5.attn.attention_biases": (5, 196),
        "layers.2.blocks.0.attn.norm.weight": (160,),
        "layers.2.downsample.conv3.c.weight": (320, 320, 1, 1),
        "layers.3.blocks.1.attn.qkv.weight": (960, 320),
        "layers.3.blocks.1.attn.proj.bias": (320,),
        "layers.3.blocks.1.mlp.norm.bias": (320,),
        "layers.3.blocks.0.mlp.fc1.weight": (1280, 320),
        "layers.3.blocks.0.mlp.fc2.weight": (320, 1280),
        "norm_head.weight": (320,),
        "head.weight": (1000, 320),
        "neck.0.weight": (256, 320, 1, 1),
        "neck.1.weight": (256,),
        "neck.2.weight": (256, 256, 3, 3),
        "neck.3.bias": (256,),
        "mask_decoder.mask_tokens.weight": (4, 256),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert sum(name.startswith("image_encoder.") for name in state) == 302


def test_shapes_give_the_published_model() -> None:
    """Heads and windows are in no shape but that of the tables of biases."""
    with torch.device("meta"):
        published = published_sam("vit_t")
        built = small_sam(published.state_dict())
    assert repr(built) == repr(published)
    assert built.image_encoder.sizes == TinyVitSizes()
    assert [shape(part) for part in built.image_encoder.modules()] == [
        shape(part) for part in published.image_encoder.modules()
    ]
    assert built.prompt_encoder.image_embedding_size == (64, 64) and built.prompt_encoder.input_image_size == (
        1024,
        1024,
    )


def shape(part: nn.Module) -> tuple[object, ...]:
    return tuple(getattr(part, name, None) for name in ("window", "heads", "stride", "img_size"))


def test_attention_in_windows_is_its_equation() -> None:
    """A map of 5x6 in windows of 4: filled up with zeros to 8x8, which the positions attend to."""
    block = with_numbers(WindowBlock(WindowStage(width=6, depth=1, heads=2, window=4, hidden=8)))
    image = torch.randn(2, 6, 5, 6, generator=torch.Generator().manual_seed(0))
    found = block._attend(image)
    for sample in range(2):
        expected = literal_attention(block.attn, image[sample].numpy(), 4)
        np.testing.assert_allclose(found[sample].numpy(), expected, atol=2e-5)


def literal_attention(attention: nn.Module, image: np.ndarray, side: int) -> np.ndarray:
    numbers = {name: weight.double().numpy() for name, weight in attention.state_dict().items()}
    channels, height, width = image.shape
    told = np.zeros((channels, height, width))
    for top in range(0, height, side):
        for left in range(0, width, side):
            places = [(top + y, left + x) for y in range(side) for x in range(side)]
            cells = [image[:, y, x] if y < height and x < width else np.zeros(channels) for y, x in places]
            projected = []
            for cell in cells:
                normed = (cell - cell.mean()) / math.sqrt(cell.var() + 1e-5)
                normed = normed * numbers["norm.weight"] + numbers["norm.bias"]
                projected.append(numbers["qkv.weight"] @ normed + numbers["qkv.bias"])
            for (y, x), own in zip(places, projected, strict=True):
                if y < height and x < width:
                    answer = literal_answer(numbers["attention_biases"], own, (y, x), projected, places)
                    told[:, y, x] = numbers["proj.weight"] @ answer + numbers["proj.bias"]
    return told


def literal_answer(
    biases: np.ndarray, own: np.ndarray, place: tuple[int, int], others: list[np.ndarray], places: list[tuple[int, int]]
) -> np.ndarray:
    """Of one position: per head query, key and value, 3 numbers each; the bias of (rows, columns) apart."""
    answers = []
    for head in range(2):
        start = head * 9
        scores = []
        for other, (y, x) in zip(others, places, strict=True):
            apart = 4 * abs(place[0] - y) + abs(place[1] - x)
            scores.append(own[start : start + 3] @ other[start + 3 : start + 6] / math.sqrt(3) + biases[head, apart])
        weights = np.exp(scores) / np.exp(scores).sum()
        answers.append(
            sum(weight * other[start + 6 : start + 9] for weight, other in zip(weights, others, strict=True))
        )
    return np.concatenate(answers)


def gelu(value: Tensor) -> Tensor:
    return value * (1 + torch.erf(value / math.sqrt(2))) / 2


def test_blocks_add_what_came_in() -> None:
    """One pixel, where 3x3 convolutions are their middle weight; normalisations use what training has seen."""
    generator = torch.Generator().manual_seed(0)
    block, pixel = with_numbers(ConvolutionBlock(2, 3)), torch.randn(1, 2, 1, 1, generator=generator)
    first = convolve(block.conv1, pixel[0, :, 0, 0])
    inside = gelu(convolve(block.conv2, gelu(first)))
    expected = gelu(pixel[0, :, 0, 0] + convolve(block.conv3, inside))
    torch.testing.assert_close(block(pixel)[0, :, 0, 0], expected)

    block = with_numbers(WindowBlock(WindowStage(width=4, depth=1, heads=2, window=1, hidden=5)))
    pixel = torch.randn(1, 4, 1, 1, generator=generator)
    attended = pixel[0, :, 0, 0] + block.attn(pixel.flatten(2).transpose(1, 2))[0, 0]
    cell = convolve(block.local_conv, attended)
    normed = (cell - cell.mean()) / torch.sqrt(cell.var(correction=0) + 1e-5) * block.mlp.norm.weight
    hidden = gelu(block.mlp.fc1.weight @ (normed + block.mlp.norm.bias) + block.mlp.fc1.bias)
    expected = cell + block.mlp.fc2.weight @ hidden + block.mlp.fc2.bias
    torch.testing.assert_close(block(pixel)[0, :, 0, 0], expected)


def convolve(part: nn.Sequential, pixel: Tensor) -> Tensor:
    """A convolution and its normalisation of an image of one pixel."""
    middle = part.c.weight[:, :, part.c.weight.shape[2] // 2, part.c.weight.shape[3] // 2]
    value = middle[:, 0] * pixel if part.c.groups > 1 else middle @ pixel
    return (value - part.bn.running_mean) / torch.sqrt(part.bn.running_var + 1e-5) * part.bn.weight + part.bn.bias


def test_encoder_keeps_images_apart_and_does_not_learn() -> None:
    """1/4, 1/8, 1/16 and again 1/16 of the resolution; a batch is what its images are alone."""
    encoder = with_numbers(TinyVit(SMALL, 64))
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features, sides, part = encoder(images), [], encoder.patch_embed(images)
    for layer in encoder.layers:
        part = layer(part)
        sides.append(part.shape[-1])
    assert sides == [8, 4, 4, 4] and features.shape == (2, 16, 4, 4)
    for number in range(2):
        torch.testing.assert_close(encoder(images[number : number + 1])[0], features[number])
    assert not torch.allclose(features[0], features[1], atol=0.01)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def test_loaded_model_computes_what_the_saved_one_did(checkpoint: Path) -> None:
    original, loaded = small_mobile_sam(), load_sam(checkpoint, None)
    assert not any(part.training for part in loaded.modules())
    image = torch.rand(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    points = (torch.tensor([[[200.0, 300.0]]]), torch.tensor([[1]]))
    results = []
    for model in (original, loaded):
        sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
        features = model.image_encoder(image)
        masks = model.mask_decoder(features, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
        results.append((features, *masks))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def loose(checkpoint: Path, **changes: object) -> SamConfig:
    """Takes every mask that the random model makes."""
    settings = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, **changes}
    return SamConfig.model_validate({"checkpoint": checkpoint, **settings})


def test_masks_of_a_batch_of_images(checkpoint: Path) -> None:
    """Images that share the encoder get the masks that each gets alone."""
    images = list(np.random.default_rng(0).integers(0, 256, (2, 45, 80, 3), dtype=np.uint8))
    alone = sam_generator(loose(checkpoint), (40, 24)).generate(images)
    together = sam_generator(loose(checkpoint, images_per_batch=2), (40, 24)).generate(images)
    assert all(cover_gaps(labels).max() >= 1 for labels in alone), "the random model must make masks"
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bfloat16_is_near_float(checkpoint: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    (exact,), (rough,) = (
        SamNetwork(load_sam(checkpoint, None), loose(checkpoint, precision=precision)).encode([image])
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.1 * exact.abs().mean()


@pytest.mark.slow
def test_stage_makes_masks(
    checkpoint: Path, prepared: Path, tmp_path: Path, world_dataset: DatasetSpec, sync_runtime: Runtime
) -> None:
    shutil.copytree(prepared / "records", tmp_path / "work/records")
    summary = make_masks(world_dataset, tmp_path / "work", loose(checkpoint, points_per_side=1), sync_runtime)
    counts = open_store(tmp_path / "work/masks-sam.zarr", "masks")["segment_count"][:]
    assert (summary.done, counts.shape) == (4, (4, 6))
    assert counts.max() > 1


def test_model_type_is_compared(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"a model \(encoder width 16\), --model-type says vit_t \(width 320\)"):
        load_sam(checkpoint, "vit_t")
    with torch.device("meta"):
        state = published_sam("vit_t").state_dict()
    monkeypatch.setattr("pipelines.masks.sam_checkpoint._read_state", lambda path: state)
    loaded = load_sam(tmp_path / "any.pt", "vit_t")
    assert loaded.image_encoder.sizes == TinyVitSizes() and loaded.image_encoder.img_size == 1024
    with pytest.raises(CheckpointError, match=r"holds a vit_t \(encoder width 320\), --model-type says vit_b"):
        load_sam(tmp_path / "any.pt", "vit_b")


def test_published_file_is_known_by_size_and_checksum(checkpoint: Path, tmp_path: Path) -> None:
    short = shutil.copy(checkpoint, tmp_path / "mobile_sam.pt")
    with pytest.raises(CheckpointError, match=r"mobile_sam.pt has [\d,]+ bytes, the published file has 40,728,226"):
        SAM.needs(SamConfig(checkpoint=short))
    with short.open("r+b") as file:
        file.truncate(40_728_226)
    with pytest.raises(CheckpointError, match="the published file has 6dbb90523a35330fedd7f1d3dfc66f99"):
        SAM.needs(SamConfig(checkpoint=short))


NORM, BIASES = (
    "image_encoder.layers.1.blocks.0.mlp.norm.weight",
    "image_encoder.layers.2.blocks.1.attn.attention_biases",
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NORM: None}, rf"Weights: 1 missing, such as {NORM}\. Pass the original file"),
        ({"more": torch.zeros(2)}, r"Weights: 1 left over, such as more\. Pass"),
        ({BIASES: torch.zeros(3, 195)}, rf"1 misshapen, such as {BIASES} \(3, 195\) instead of \(3, 196\)"),
        (
            {NORM: None, "more": torch.zeros(2), "mask_decoder.iou_token.weight": None},
            rf"Weights: 2 missing, such as {NORM}; 1 left over, such as more\. Pass",
        ),
        (
            {"image_encoder.layers.3.blocks.0.attn.attention_biases": torch.zeros(4, 48)},
            "weight 'image_encoder.layers.3.blocks.0.attn.attention_biases' is missing or misshapen",
        ),
        ({"image_encoder.norm_head.weight": None}, "weight 'image_encoder.norm_head.weight' is missing"),
        ({NORM: torch.zeros(8, dtype=torch.int64)}, r"norm.weight' is torch.int64 \(8,\), no plain float tensor"),
    ],
)
def test_other_weights_are_one_message(
    changes: dict[str, Tensor | None], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True) | changes
    torch.save({name: weight for name, weight in state.items() if weight is not None}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"other\.pt.*{message}") as caught:
        load_sam(tmp_path / "other.pt", None)
    assert "\n" not in str(caught.value)
