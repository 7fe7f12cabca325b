"""A Sam or MobileSAM of any size, from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT, Sam
    from torch import Tensor

    from pipelines.masks.tiny_vit import TinyVit

Shapes = Mapping[str, tuple[int, ...]]
"""Of the weights of a state dict, by name."""
ENCODER: Final = "image_encoder."
MOBILE_SAM: Final = ENCODER + "patch_embed.seq.0.c.weight"
"""A weight that only MobileSAM has."""
MOBILE_SIDE_PX: Final = 1024
MOBILE_PATCH_PX: Final = 16
TINY_VIT_STAGES: Final = 3
"""Stages with attention; one of convolutions comes before them."""
DECODER_HEADS: Final = 8
"""Attention heads of the mask decoder: the same in all Segment Anything models, and not visible in the weights."""


def small_sam(state: Mapping[str, Tensor]) -> Sam:
    """A Sam or MobileSAM with the sizes of a state dict and weights of its own.

    Raises:
        KeyError: a weight is missing.
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    size = {name: tuple(weight.shape) for name, weight in state.items()}
    image_encoder = _tiny_vit(size) if MOBILE_SAM in size else _vit(size)
    layer, side, patch_px = "mask_decoder.transformer.layers.", image_encoder.img_size, _patch_px(size)
    prompt_width = size["prompt_encoder.no_mask_embed.weight"][1]
    iou_head = _numbered(size, "mask_decoder.iou_prediction_head.layers.{}.weight")
    prompt_encoder = PromptEncoder(
        embed_dim=prompt_width,
        image_embedding_size=(side // patch_px, side // patch_px),
        input_image_size=(side, side),
        mask_in_chans=size["prompt_encoder.mask_downscaling.3.weight"][0],
    )
    transformer = TwoWayTransformer(
        depth=len(_numbered(size, layer + "{}.norm1.weight")),
        embedding_dim=prompt_width,
        num_heads=DECODER_HEADS,
        mlp_dim=size[layer + "0.mlp.lin1.weight"][0],
        attention_downsample_rate=prompt_width // size[layer + "0.cross_attn_token_to_image.q_proj.weight"][0],
    )
    mask_decoder = MaskDecoder(
        transformer_dim=prompt_width,
        transformer=transformer,
        num_multimask_outputs=size["mask_decoder.mask_tokens.weight"][0] - 1,
        iou_head_depth=len(iou_head),
        iou_head_hidden_dim=iou_head[0][0],
    )
    return Sam(image_encoder, prompt_encoder, mask_decoder)


def _patch_px(size: Shapes) -> int:
    """Pixels along a side of one position of the image features."""
    return MOBILE_PATCH_PX if MOBILE_SAM in size else size[ENCODER + "patch_embed.proj.weight"][2]


def _vit(size: Shapes) -> ImageEncoderViT:
    """Heads follow from the width of the relative position tables, windowed blocks from their length (2 size - 1)."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    _, grid, _, width = size[ENCODER + "pos_embed"]
    tables = _numbered(size, ENCODER + "blocks.{}.attn.rel_pos_h")
    windows = [(length + 1) // 2 for length, _ in tables]
    patch_px = _patch_px(size)
    return ImageEncoderViT(
        img_size=grid * patch_px,
        patch_size=patch_px,
        embed_dim=width,
        depth=len(tables),
        num_heads=width // tables[0][1],
        mlp_ratio=size[ENCODER + "blocks.0.mlp.lin1.weight"][0] / width,
        out_chans=size["prompt_encoder.no_mask_embed.weight"][1],
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=next((window for window in windows if window != grid), 0),
        global_attn_indexes=tuple(index for index, window in enumerate(windows) if window == grid),
    )


def _tiny_vit(size: Shapes) -> TinyVit:
    """Heads and windows follow from the tables of biases; nothing tells the image's side, which is MobileSAM's."""
    from pipelines.masks.tiny_vit import TinyVit, TinyVitSizes, WindowStage

    layer, stages = ENCODER + "layers.{}.", []
    for number in range(1, 1 + TINY_VIT_STAGES):
        block = layer.format(number) + "blocks."
        tables = _numbered(size, block + "{}.attn.attention_biases")
        (heads, distances), (hidden, width) = tables[0], size[block + "0.mlp.fc1.weight"]
        if not distances or isqrt(distances) ** 2 != distances or width % heads:
            raise KeyError(block + "0.attn.attention_biases")
        stages.append(WindowStage(width, len(tables), heads, isqrt(distances), hidden))
    block = layer.format(0) + "blocks."
    hidden, width, _, _ = size[block + "0.conv1.c.weight"]
    sizes = TinyVitSizes(
        width=width,
        depth=len(_numbered(size, block + "{}.conv1.c.weight")),
        hidden=hidden,
        stages=tuple(stages),
        features=size["prompt_encoder.no_mask_embed.weight"][1],
        classes=size[ENCODER + "head.weight"][0],
    )
    return TinyVit(sizes, MOBILE_SIDE_PX)


def _numbered(size: Shapes, pattern: str) -> list[tuple[int, ...]]:
    """Shapes of the weights whose names count up from 0; at least one must be there."""
    found = [size[pattern.format(0)]]
    while (name := pattern.format(len(found))) in size:
        found.append(size[name])
    return found
