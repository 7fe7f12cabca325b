"""Segment Anything with small models from the library's classes: sizes read from weights, label maps, errors."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pipelines.masks import SamConfig, make_masks
from pipelines.masks.sam import sam_segmenter
from pipelines.masks.sam_checkpoint import PUBLISHED, SamShapes, find_checkpoint, load_sam
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import CheckpointError, ConfigError, SetupError

SEED = 10
"""Its random weights make masks that neither vanish nor fill the image."""


def small_sam() -> Sam:
    """64 px image, 8x8 patches of 8 px, width 32 in 4 heads, blocks: window 4, global, window 4; random weights."""
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=4,
        mlp_ratio=2,
        out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=1, embedding_dim=16, num_heads=8, mlp_dim=24)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, iou_head_depth=2, iou_head_hidden_dim=20)
    sam = Sam(encoder, prompts, decoder).eval()
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in sam.state_dict().items():
        weight.normal_(mean=float("norm" in name), std=0.3, generator=generator)
    return sam


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_sam().state_dict(), path)
    return path


def loose(checkpoint: Path) -> SamConfig:
    """Takes every mask that the random model makes."""
    return SamConfig(checkpoint=checkpoint, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared / "records", tmp_path / "work/records")
    return tmp_path / "work"


def test_loaded_model_computes_what_the_saved_one_did(checkpoint: Path) -> None:
    """Wrong heads, windows or epsilon would load without a complaint and give other features."""
    original, loaded = small_sam(), load_sam(checkpoint, None)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    points = (torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    with torch.no_grad():
        for model in (original, loaded):
            model.features = model.image_encoder(image)
            sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
            model.result = model.mask_decoder(
                image_embeddings=model.features,
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
    assert torch.equal(original.features, loaded.features)
    assert torch.equal(original.result[0], loaded.result[0]) and torch.equal(original.result[1], loaded.result[1])
    assert torch.equal(original.pixel_mean, loaded.pixel_mean) and torch.equal(original.pixel_std, loaded.pixel_std)


@pytest.mark.parametrize(
    ("kind", "width", "depth", "heads", "blocks"),
    [
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    ],
)
def test_published_sizes_are_recognised(kind: str, width: int, depth: int, heads: int, blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        state = sam_model_registry[kind]().state_dict()
    shapes = SamShapes.from_state(state)
    assert (shapes.width, shapes.depth, shapes.heads, shapes.global_blocks) == (width, depth, heads, blocks)
    assert (shapes.grid, shapes.patch_px, shapes.window, shapes.num_masks) == (64, 16, 14, 3)
    with torch.device("meta"):
        built = shapes.build().state_dict()
    assert {name: weight.shape for name, weight in built.items()} == {n: w.shape for n, w in state.items()}


def test_label_map_covers_the_image(checkpoint: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    segment = sam_segmenter(loose(checkpoint), (40, 24))
    labels = segment(image)
    assert labels.shape == (24, 40)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert labels.max() >= 1, "the random model must make masks, or this tests nothing"
    np.testing.assert_array_equal(segment(image), labels)


def test_number_of_torch_threads_is_restored(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    sam_segmenter(loose(checkpoint), (16, 9))(np.zeros((9, 16, 3), dtype=np.uint8))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_stage_writes_the_same_bytes_with_threads(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    shutil.copytree(work, tmp_path / "other")
    summary = make_masks(world_dataset, work, loose(checkpoint), sync_runtime)
    threads = Runtime(scheduler=Scheduler(kind="threads", workers=2))
    make_masks(world_dataset, tmp_path / "other", loose(checkpoint), threads)
    store = open_store(work / "masks-sam.zarr", "masks")
    ids, counts = store["segment_id"][:], store["segment_count"][:]
    assert (summary.done, ids.shape) == (4, (4, 6, 104, 200))
    assert (ids.reshape(4, 6, -1).max(axis=2) < counts).all()
    assert counts.max() > 1
    np.testing.assert_array_equal(open_store(tmp_path / "other/masks-sam.zarr", "masks")["segment_id"][:], ids)


def test_other_weights_are_another_input(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    config = SamConfig(checkpoint=checkpoint, points_per_side=1)
    make_masks(world_dataset, work, config, sync_runtime)
    state = torch.load(checkpoint, weights_only=True)
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "tuned.pth")
    with pytest.raises(ConfigError, match="inputs.checkpoint: was '"):
        make_masks(world_dataset, work, config.model_copy(update={"checkpoint": tmp_path / "tuned.pth"}), sync_runtime)


def test_without_checkpoint_the_published_files_are_named(
    work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime
) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_masks(world_dataset, work, SamConfig(), sync_runtime)
    message = str(caught.value)
    for name, size, sha in PUBLISHED.values():
        assert name in message and f"{size:,} bytes" in message and sha in message
    assert "--checkpoint weights/sam_vit_b_01ec64.pth" in message
    assert not (work / "masks-sam.zarr").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"SAM checkpoint .*none.pth does not exist"):
        find_checkpoint(SamConfig(checkpoint=tmp_path / "none.pth"))


def test_incomplete_download_is_recognised_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_l_0b3195.pth"
    path.write_bytes(b"123")
    with pytest.raises(CheckpointError, match="has 3 bytes, the published file has 1,249,524,607"):
        find_checkpoint(SamConfig(checkpoint=path))


def test_other_model_type_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder width 32\), --model-type says vit_b \(width 768\)"):
        load_sam(checkpoint, "vit_b")


def test_text_and_cut_files_are_no_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    for number, data in enumerate([b"hello", b"", checkpoint.read_bytes()[:5000]]):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{number}.pth is no readable checkpoint"):
            load_sam(path, None)


def test_other_weights_and_shapes_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="no Segment Anything checkpoint: weight 'image_encoder.pos_embed' is"):
        load_sam(tmp_path / "resnet.pth", None)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a dict of weights"):
        load_sam(tmp_path / "list.pth", None)
    state = torch.load(checkpoint, weights_only=True)
    del state["image_encoder.neck.1.weight"]
    torch.save(state, tmp_path / "holed.pth")
    with pytest.raises(CheckpointError, match="does not fit a Segment Anything model"):
        load_sam(tmp_path / "holed.pth", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_gpu_is_named(checkpoint: Path) -> None:
    config = SamConfig(checkpoint=checkpoint, device="cuda")
    with pytest.raises(SetupError, match="--device cuda: torch finds no CUDA device"):
        sam_segmenter(config, (40, 24))


def test_bgr_files_reach_the_model_as_rgb(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    seen = []

    def spy(self: object, image: np.ndarray) -> list[dict[str, object]]:
        seen.append(image)
        return []

    monkeypatch.setattr(SamAutomaticMaskGenerator, "generate", spy)
    red_bgr = cv2.merge([np.full((9, 16), value, np.uint8) for value in (0, 0, 200)])
    sam_segmenter(loose(checkpoint), (16, 9))(red_bgr)
    assert seen[0][0, 0].tolist() == [200, 0, 0]
