"""Segment Anything as a network of point prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from pipelines.masks.config import PromptedConfig
from pipelines.masks.sam_decoder import LOGITS_PER_CELL, decode_points, mask_logits

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor


class SamNetwork:
    """A Sam on its device; encodes images in batches and decodes points with what they share computed once."""

    def __init__(self, model: Sam, config: PromptedConfig) -> None:
        """Takes a model in evaluation mode; ``config`` says its precision and whether it is compiled."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        self.model = model
        self.transform = ResizeLongestSide(model.image_encoder.img_size)
        self.autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        self.run_encoder, self.run_decoder = model.image_encoder, decode_points
        if config.compile:
            self.run_encoder, self.run_decoder = torch.compile(model.image_encoder), torch.compile(decode_points)

    @property
    def square(self) -> int:
        """Side of the image that the encoder takes, pixels."""
        return int(self.model.image_encoder.img_size)

    @property
    def logits_side(self) -> int:
        """Side of the logits, in their own pixels."""
        return int(LOGITS_PER_CELL * self.model.prompt_encoder.image_embedding_size[0])

    def shown(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image of (H, W) pixels whose longer side becomes the encoder's; the rest is padding."""
        height, width = self.transform.get_preprocess_shape(*shape, self.square)
        return height, width

    def encode(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float[Tensor, "C h w"]]:
        """Features of RGB images of any sizes."""
        import torch

        prepared = [self.transform.apply_image(image) for image in images]
        tensors = [torch.as_tensor(image, device=self.model.device).permute(2, 0, 1) for image in prepared]
        with self.autocast:
            features = self.run_encoder(torch.stack([self.model.preprocess(tensor) for tensor in tensors]))
        return list(features.float())

    def decode(
        self, features: Float[Tensor, "C h w"], points: Float[np.ndarray, "B 2"], above: float, rows: int
    ) -> tuple[Float[Tensor, "M H W"], Float[Tensor, " M"]]:
        """Logits and predicted IoU of the masks of points, as `PromptedNetwork` asks."""
        import torch

        model, (cells_high, cells_wide) = self.model, features.shape[1:]
        coordinates = torch.as_tensor(points, device=model.device)[:, None]
        labels = torch.ones(coordinates.shape[:2], dtype=torch.int, device=model.device)
        sparse, dense = model.prompt_encoder(points=(coordinates, labels), boxes=None, masks=None)
        with self.autocast:
            image, places = features[None] + dense[:1], model.prompt_encoder.get_dense_pe()
            decoded = self.run_decoder(model.mask_decoder, _by_cell(image), _by_cell(places), sparse)
            quality = decoded.quality.float()
            wanted = quality > above if above > 0 else torch.ones_like(quality, dtype=torch.bool)
            answered = wanted.any(dim=1)
            grid = (min(cells_high, -(-rows // LOGITS_PER_CELL)), cells_wide)
            cells = decoded.image[answered, : grid[0] * grid[1]]
            logits = mask_logits(model.mask_decoder, cells, decoded.kernels[answered], grid)
        return logits[wanted[answered]].float(), quality[wanted]


def _by_cell(image: Float[Tensor, "b C h w"]) -> Float[Tensor, "b N C"]:
    return image.flatten(2).transpose(1, 2).contiguous()
