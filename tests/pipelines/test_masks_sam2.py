"""SAM 2 by transformers, with a small model in the published format: files of weights, masks, errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.masks import GENERATORS, Sam2Config
from pipelines.masks.label_map import cover_gaps
from pipelines.masks.sam2 import find_sam2, sam2_generator
from schemas.errors import CheckpointError

transformers = pytest.importorskip("transformers", reason="needs the extra sam2")


def small_sam2() -> Any:
    """128 px image, features of 8x8, four stages, one block of global attention; random weights."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[128, 128],
        window_positional_embedding_background_size=[4, 4],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    sizes = {"hidden_size": 32}
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={**sizes, "image_size": 128},
        mask_decoder_config={**sizes, "mlp_dim": 64, "iou_head_hidden_dim": 32},
    )
    torch.manual_seed(0)
    model = transformers.Sam2Model(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam2")
    small_sam2().save_pretrained(folder)
    return folder / "model.safetensors"


def loose(checkpoint: Path) -> Sam2Config:
    return Sam2Config(checkpoint=checkpoint, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


def test_masks_are_those_of_the_package(checkpoint: Path) -> None:
    """Logits of the loaded network at a point, and its mask on the image by the package's own postprocessing."""
    model, image = small_sam2(), np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    network = sam2_generator(loose(checkpoint), None).network
    processor = transformers.Sam2ImageProcessor(size={"height": 128, "width": 128})
    with torch.inference_mode():
        pixels = processor([image], return_tensors="pt")["pixel_values"]
        expected = model(pixel_values=pixels, input_points=torch.tensor([[[[40.0, 60.0]], [[90.0, 20.0]]]]))
        logits, quality = network.decode(network.encode([image])[0], np.array([[40.0, 60.0], [90.0, 20.0]]), 0.0, 32)
    assert logits.shape == (6, 32, 32)
    torch.testing.assert_close(logits, expected.pred_masks[0].flatten(0, 1))
    torch.testing.assert_close(quality, expected.iou_scores[0].flatten())


def test_label_maps_cover_images_of_a_batch(checkpoint: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 45, 80, 3), dtype=np.uint8))
    labels = sam2_generator(loose(checkpoint), (40, 24)).generate(images)
    for each in map(cover_gaps, labels):
        assert each.shape == (24, 40)
        np.testing.assert_array_equal(np.unique(each), np.arange(each.max() + 1))
    assert max(each.max() for each in labels) >= 0, "the random model must make masks, or this tests nothing"


def test_both_files_are_inputs(checkpoint: Path) -> None:
    needed = GENERATORS["sam2"].needs(loose(checkpoint))
    assert needed == {
        "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "checkpoint_config": hashlib.sha256(checkpoint.with_name("config.json").read_bytes()).hexdigest(),
    }


def test_missing_and_damaged_files_are_explained(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--checkpoint FOLDER/model.safetensors"):
        find_sam2(Sam2Config())
    lonely = tmp_path / "model.safetensors"
    lonely.write_bytes(checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match="expected files model.safetensors and config.json"):
        find_sam2(Sam2Config(checkpoint=lonely))
    config = json.loads(checkpoint.with_name("config.json").read_text())
    config["mask_decoder_config"]["mlp_dim"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model.safetensors"):
        sam2_generator(Sam2Config(checkpoint=lonely), None)
    lonely.write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="model.safetensors is no readable file of weights"):
        find_sam2(Sam2Config(checkpoint=lonely))
