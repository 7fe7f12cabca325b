"""Segment Anything's mask decoder for many points of one image, with the library's weights and its results.

The decoder of Kirillov et al., "Segment Anything" (2023), lets a few tokens of each point attend to all positions of
the image and back. Three rearrangements leave its equations as they are and its sums in another order:

- the first layer sees the same image for all points: its projections of the image are made once;
- a product with a weight of image positions is moved to the tokens, of which there are a hundred times fewer:
  ``(x W_k) q = x (W_k q)`` and ``A (x W_v) = (A x) W_v``;
- logits are made last, and only for masks whose predicted quality is wanted and for rows that the image fills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jaxtyping import Float

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder
    from segment_anything.modeling.transformer import Attention
    from torch import Tensor

LOGITS_PER_CELL: Final = 4
"""Logits along a side of one position of the image features: two upscalings by two."""


@dataclass(frozen=True)
class DecodedPoints:
    """What the decoder found for B points, short of the logits."""

    quality: Float[Tensor, "B K"]
    """Predicted IoU of the K masks of each point."""
    kernels: Float[Tensor, "B K D"]
    """Each mask's weights of the upscaled image."""
    image: Float[Tensor, "B N C"]
    """Image features of each point."""


def decode_points(
    decoder: MaskDecoder, image: Float[Tensor, "1 N C"], places: Float[Tensor, "1 N C"], points: Float[Tensor, "B P C"]
) -> DecodedPoints:
    """Runs the transformer and the heads for the masks 1..K of each point (mask 0 answers unambiguous prompts).

    Args:
        decoder: of a Sam.
        image: features of the image's N positions, the embedding of "no mask" added.
        places: positional encoding of the positions.
        points: embedded prompts, P tokens for each point.

    Returns:
        Qualities, and what `mask_logits` needs.
    """
    import torch

    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    prompts = torch.cat([own.expand(len(points), -1, -1), points], dim=1)
    tokens, transformer = prompts, decoder.transformer
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
        else:
            placed_tokens = tokens + prompts
            tokens = layer.norm1(tokens + layer.self_attn(q=placed_tokens, k=placed_tokens, v=tokens))
        placed = image + places
        tokens = layer.norm2(tokens + _look(layer.cross_attn_token_to_image, tokens + prompts, placed, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = layer.norm4(_tell(layer.cross_attn_image_to_token, image, placed, tokens + prompts, tokens))
    wanted = [0, *range(2, 1 + decoder.num_mask_tokens)]
    tokens, prompts = tokens[:, wanted], prompts[:, wanted]
    looked = _look(transformer.final_attn_token_to_image, tokens + prompts, image + places, image)
    tokens = transformer.norm_final_attn(tokens + looked)
    kernels = [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps[1:])]
    return DecodedPoints(decoder.iou_prediction_head(tokens[:, 0])[:, 1:], torch.stack(kernels, dim=1), image)


def _look(
    attention: Attention,
    queries: Float[Tensor, "B T C"],
    placed: Float[Tensor, "b N C"],
    image: Float[Tensor, "b N C"],
) -> Float[Tensor, "B T C"]:
    """Tokens attend to the image: ``placed`` gives the keys, ``image`` the values; b is 1 where points share it."""
    import torch

    heads, (points, tokens, _) = attention.num_heads, queries.shape
    asked = _by_head(attention.q_proj(queries), heads)
    if len(image) == 1:
        keys, values = (
            _by_head(project(part), heads) for project, part in ((attention.k_proj, placed), (attention.v_proj, image))
        )
        asked = asked.transpose(0, 1).flatten(1, 2)[None]
        answer = torch.nn.functional.scaled_dot_product_attention(asked, keys, values)
        answer = answer[0].unflatten(1, (points, tokens)).permute(1, 2, 0, 3).flatten(2)
        return attention.out_proj(answer)
    key, value = attention.k_proj.weight.unflatten(0, (heads, -1)), attention.v_proj.weight.unflatten(0, (heads, -1))
    # the bias of the keys moves all scores of a token alike, which softmax does not see
    folded = torch.einsum("bhtd,hdc->bhtc", asked, key).flatten(1, 2) / math.sqrt(asked.shape[-1])
    weights = torch.softmax(folded @ placed.transpose(1, 2), dim=-1)
    pooled = (weights @ image).unflatten(1, (heads, tokens))
    answer = torch.einsum("bhtc,hdc->bthd", pooled, value).flatten(2) + attention.v_proj.bias
    return attention.out_proj(answer)


def _tell(
    attention: Attention,
    image: Float[Tensor, "b N C"],
    placed: Float[Tensor, "b N C"],
    keys: Float[Tensor, "B T C"],
    values: Float[Tensor, "B T C"],
) -> Float[Tensor, "B N C"]:
    """The image attends to the tokens and takes what they say: ``image`` plus the attention's output."""
    import torch

    heads = attention.num_heads
    asked, answers = _by_head(attention.k_proj(keys), heads), _by_head(attention.v_proj(values), heads)
    query = attention.q_proj.weight.unflatten(0, (heads, -1))
    scale = 1 / math.sqrt(asked.shape[-1])
    folded = torch.einsum("bhtd,hdc->bcht", asked, query).flatten(2) * scale
    shift = torch.einsum("bhtd,hd->bht", asked, attention.q_proj.bias.unflatten(0, (heads, -1))) * scale
    scores = torch.baddbmm(shift.flatten(1)[:, None], placed.expand(len(keys), -1, -1), folded)
    weights = torch.softmax(scores.unflatten(2, (heads, -1)), dim=-1).flatten(2)
    output = attention.out_proj.weight.unflatten(1, (heads, -1))
    # weights of a head add up to one, so a share of the bias with every token of every head adds up to the bias
    told = torch.einsum("bhtd,chd->bhtc", answers, output) + attention.out_proj.bias / heads
    return torch.baddbmm(image, weights, told.flatten(1, 2))


def _by_head(projected: Float[Tensor, "b T D"], heads: int) -> Float[Tensor, "b heads T d"]:
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)


def mask_logits(
    decoder: MaskDecoder,
    image: Float[Tensor, "B N C"],
    kernels: Float[Tensor, "B K D"],
    grid: tuple[int, int],
) -> Float[Tensor, "B K h w"]:
    """Logits of masks at four times the resolution of the image features.

    Args:
        decoder: of a Sam.
        image: features of the first rows of the image, row by row.
        kernels: K masks of each point.
        grid: (rows, columns) of the features.

    Returns:
        Logits; h and w are four times the grid.
    """
    upscaled = decoder.output_upscaling(image.transpose(1, 2).unflatten(2, grid))
    return (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
