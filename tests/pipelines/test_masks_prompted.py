"""The generator against segment-anything's own, on the same weights: the same masks, boxes and scores, for less."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pipelines.masks.config import SamConfig
from pipelines.masks.found_masks import FoundMasks
from pipelines.masks.prompted import find_masks
from pipelines.masks.sam_network import SamNetwork

LIBRARY = (
    "points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset",
    "box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor",
    "min_mask_region_area",
)  # fmt: skip
"""Settings that have the library's names."""


def a_sam(seed: int = 0) -> Sam:
    """256 px image in 16x16 cells, the decoder of all published sizes but 64 wide; random weights.

    Logits are scaled so that masks are as stable as real ones, qualities so that half of them pass 0.88.
    """
    torch.manual_seed(seed)
    encoder = ImageEncoderViT(
        img_size=256,
        patch_size=16,
        embed_dim=32,
        depth=1,
        num_heads=2,
        mlp_ratio=2,
        out_chans=64,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(),
    )
    prompts = PromptEncoder(embed_dim=64, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, num_heads=8, mlp_dim=128)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=64)
    sam = Sam(encoder, prompts, decoder).eval().requires_grad_(False)
    for attention in attentions(transformer):
        attention.q_proj.weight *= 8
        attention.out_proj.weight *= 4
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            getattr(attention, name).bias.normal_(std=0.5)
    for mlp in decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight *= 400
        mlp.layers[-1].bias *= 400
    decoder.iou_prediction_head.layers[-1].weight *= 3
    decoder.iou_prediction_head.layers[-1].bias += 1.15
    return sam


def attentions(transformer: TwoWayTransformer) -> list[torch.nn.Module]:
    blocks = [(layer.cross_attn_token_to_image, layer.cross_attn_image_to_token) for layer in transformer.layers]
    return [transformer.final_attn_token_to_image, *(attention for pair in blocks for attention in pair)]


class DiskDecoder(torch.nn.Module):
    """A decoder of the library's signature: three disks around each point, of a size and quality of its own.

    Their boxes differ from point to point and overlap, so that every threshold decides something.
    """

    def forward(
        self, image_embeddings: torch.Tensor, sparse_prompt_embeddings: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        points = sparse_prompt_embeddings[:, 0, :2]
        side = 4 * image_embeddings.shape[-1]
        x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
        distance = torch.hypot(x - points[:, 0, None, None] * side, y - points[:, 1, None, None] * side)
        draw = torch.frac(torch.abs(torch.sin(points @ torch.tensor([12.9898, 78.233])[:, None]) * 43758.5453))
        radius = torch.tensor([2.0, 5.0, 11.0]) * (0.5 + draw)
        spotted = 3 * torch.cos(x * 1.7 + 3 * draw[..., None]) * torch.cos(y * 1.3)
        logits = 2 * (radius[..., None, None] - distance[:, None]) + spotted[:, None]
        return logits, 0.8 + 0.2 * torch.frac(draw * torch.tensor([7.0, 13.0, 29.0]))


class Positions(torch.nn.Module):
    """A prompt encoder of the library's signature that hands the points on, as shares of the image."""

    def __init__(self, encoder: PromptEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_embedding_size = encoder.image_embedding_size

    def forward(self, points: tuple[torch.Tensor, torch.Tensor], **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return (points[0] / self.encoder.input_image_size[0]).float(), torch.zeros(1)

    def get_dense_pe(self) -> torch.Tensor:
        return self.encoder.get_dense_pe()


class DiskNetwork(SamNetwork):
    """The same disks, asked for as `find_masks` asks."""

    def decode(
        self, features: torch.Tensor, points: np.ndarray, above: float, rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = torch.from_numpy(points)[:, None]
        sparse, _ = self.model.prompt_encoder(points=(prompts, prompts))
        logits, quality = self.model.mask_decoder(features[None], sparse)
        wanted = quality > above if above > 0 else torch.ones_like(quality, dtype=torch.bool)
        return logits[wanted], quality[wanted]


def disks() -> Sam:
    sam = a_sam()
    sam.prompt_encoder, sam.mask_decoder = Positions(sam.prompt_encoder), DiskDecoder()
    return sam


def an_image(seed: int, shape: tuple[int, int] = (90, 160)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def assert_same(found: FoundMasks, expected: Sequence[dict[str, object]], least_iou: float) -> None:
    masks = np.stack([np.asarray(mask["segmentation"]) for mask in expected])
    assert found.masks.shape == masks.shape
    ious = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(found.masks, masks, strict=True)]
    assert min(ious) >= least_iou
    np.testing.assert_allclose(found.quality, [mask["predicted_iou"] for mask in expected], atol=1e-5)
    np.testing.assert_allclose(found.stability, [mask["stability_score"] for mask in expected], atol=1e-3)
    boxes = np.array([mask["bbox"] for mask in expected])
    np.testing.assert_allclose(found.boxes[:, 2:] - found.boxes[:, :2], boxes[:, 2:], atol=1)
    np.testing.assert_allclose(found.boxes[:, :2], boxes[:, :2], atol=1)


CASES = {
    "defaults": {"stability_score_thresh": 0.7},
    "everything": {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1},
    "strict": {"pred_iou_thresh": 0.95, "stability_score_thresh": 0.4, "stability_score_offset": 2},
    "suppressed": {"stability_score_thresh": 0.5, "box_nms_thresh": 0.2, "points_per_batch": 7},
    "crops": {"stability_score_thresh": 0.6, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
    "crops apart": {
        "stability_score_thresh": 0.6,
        "crop_n_layers": 1,
        "crop_overlap_ratio": 0.1,
        "crop_nms_thresh": 0.3,
    },
    "small regions": {"stability_score_thresh": 0.5, "min_mask_region_area": 60},
}


@pytest.mark.parametrize("name", CASES)
def test_steps_after_the_network_are_the_library_s(name: str) -> None:
    """Thresholds, suppression, crops and small regions, on masks that overlap in every way: to the bit."""
    config = SamConfig(points_per_side=8, **CASES[name])
    sam = disks()
    (found,) = find_masks(DiskNetwork(sam, config), config, [an_image(0)])
    expected = SamAutomaticMaskGenerator(sam, **config.model_dump(include=set(LIBRARY))).generate(an_image(0))
    assert len(expected) > 5, "a case must find masks, or it tests nothing"
    assert_same(found, expected, least_iou=1.0)


@pytest.mark.parametrize("shape", [(90, 160), (256, 256), (301, 120)])
def test_points_are_answered_as_by_the_library(shape: tuple[int, int]) -> None:
    """Logits of every pixel and qualities, to the rounding of float32."""
    sam, config = a_sam(), SamConfig()
    network, predictor = SamNetwork(sam, config), SamPredictor(sam)
    points = np.random.default_rng(1).uniform(0, 1, (9, 2)) * shape[::-1]
    predictor.set_image(an_image(1, shape))
    placed = predictor.transform.apply_coords(points, shape)
    low = predictor.predict_torch(torch.from_numpy(placed)[:, None], torch.ones(9, 1))
    with torch.inference_mode():
        features = network.encode([an_image(1, shape)])
        torch.testing.assert_close(features[0], predictor.features[0])
        logits, quality = network.decode(features[0], placed, 0.0, network.logits_side)
        some, better = network.decode(features[0], placed, 0.9, 20)
    assert low[2].std() > 10, "logits must differ, or this tests nothing"
    torch.testing.assert_close(logits.view_as(low[2]), low[2], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(quality.view_as(low[1]), low[1], rtol=0, atol=1e-5)
    chosen = low[1] > 0.9
    assert 0 < chosen.sum() < chosen.numel()
    torch.testing.assert_close(better, low[1][chosen], rtol=0, atol=1e-5)
    torch.testing.assert_close(some, low[2][chosen][:, : some.shape[1]], rtol=1e-4, atol=2e-3)
    assert some.shape[1] == 20


def test_masks_are_the_library_s() -> None:
    """All of it with random weights, which make ragged masks: a pixel of hundreds lies on the edge of rounding."""
    sam, config = a_sam(), SamConfig(points_per_side=6, stability_score_thresh=0.7, box_nms_thresh=1)
    (found,) = find_masks(SamNetwork(sam, config), config, [an_image(2)])
    expected = SamAutomaticMaskGenerator(sam, **config.model_dump(include=set(LIBRARY))).generate(an_image(2))
    assert len(expected) > 5
    assert_same(found, expected, least_iou=0.999)


def test_images_of_a_batch_do_not_meet() -> None:
    """Three images of different sizes and contents, encoded together and one by one."""
    sam, images = a_sam(), [an_image(3), an_image(4, (128, 100)), np.zeros((90, 160, 3), dtype=np.uint8)]
    found = [
        find_masks(SamNetwork(sam, config), config, images)
        for config in (SamConfig(points_per_side=3, stability_score_thresh=0.5, images_per_batch=n) for n in (1, 3))
    ]
    for one, three, image in zip(*found, images, strict=True):
        assert one.masks.shape[1:] == image.shape[:2]
        assert one.masks.shape == three.masks.shape
        assert (one.masks != three.masks).mean() < 1e-3


def test_bfloat16_finds_nearly_the_same() -> None:
    sam, image = a_sam(), an_image(5)
    exact, rough = (
        find_masks(SamNetwork(sam, config), config, [image])[0]
        for config in (
            SamConfig(
                points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1, precision=precision
            )
            for precision in ("float32", "bfloat16")
        )
    )
    assert exact.masks.shape == rough.masks.shape == (48, 90, 160)
    assert not np.array_equal(exact.quality, rough.quality)
    np.testing.assert_allclose(np.sort(exact.quality), np.sort(rough.quality), atol=0.05)
