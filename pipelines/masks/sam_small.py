"""A Sam of another size than the three that the library builds, from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

DECODER_HEADS: Final = 8
"""Attention heads of the mask decoder: the same in all Segment Anything models, and not visible in the weights."""


def small_sam(state: Mapping[str, Tensor]) -> Sam:
    """A Sam with the sizes of a state dict and weights of its own.

    The encoder's heads follow from the width of the relative position tables, its windowed blocks from their length
    (2 * size - 1).

    Raises:
        KeyError: a weight is missing.
    """
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    size = {name: tuple(weight.shape) for name, weight in state.items()}
    encoder, layer = "image_encoder.", "mask_decoder.transformer.layers."
    _, grid, _, width = size[encoder + "pos_embed"]
    tables = _numbered(size, encoder + "blocks.{}.attn.rel_pos_h")
    windows = [(length + 1) // 2 for length, _ in tables]
    patch_px = size[encoder + "patch_embed.proj.weight"][2]
    prompt_width = size["prompt_encoder.no_mask_embed.weight"][1]
    iou_head = _numbered(size, "mask_decoder.iou_prediction_head.layers.{}.weight")
    image_encoder = ImageEncoderViT(
        img_size=grid * patch_px,
        patch_size=patch_px,
        embed_dim=width,
        depth=len(tables),
        num_heads=width // tables[0][1],
        mlp_ratio=size[encoder + "blocks.0.mlp.lin1.weight"][0] / width,
        out_chans=prompt_width,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=next((window for window in windows if window != grid), 0),
        global_attn_indexes=tuple(index for index, window in enumerate(windows) if window == grid),
    )
    prompt_encoder = PromptEncoder(
        embed_dim=prompt_width,
        image_embedding_size=(grid, grid),
        input_image_size=(grid * patch_px, grid * patch_px),
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


def _numbered(size: Mapping[str, tuple[int, ...]], pattern: str) -> list[tuple[int, ...]]:
    """Shapes of the weights whose names count up from 0; at least one must be there."""
    found = [size[pattern.format(0)]]
    while (name := pattern.format(len(found))) in size:
        found.append(size[name])
    return found
