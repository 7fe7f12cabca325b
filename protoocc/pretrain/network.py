"""What is pretrained: the image features of a network, under heads that see every scale of them."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from protoocc.losses.pixels import cell_cross_entropy, class_counts, depth_counts
from protoocc.model.backbone import ImageFeatures
from protoocc.model.image_config import ImageConfig
from protoocc.model.pixel_heads import PixelHeads
from protoocc.pixels import PixelLogits
from protoocc.pretrain.config import PretrainConfig
from protoocc.pretrain.targets import PixelBatch


class PixelNetwork(nn.Module):
    """Image features and heads, under the names that a network with such features has for them."""

    def __init__(self, config: ImageConfig) -> None:
        """Random weights."""
        super().__init__()
        self.image_features = ImageFeatures(config)
        self.pixel_heads = PixelHeads(config, classes=True, depth=True)

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> list[PixelLogits]:
        """Logits of the cells of every scale, the finest first; the same heads read all scales."""
        features = self.image_features(images)
        return [
            self.pixel_heads(scale, stride) for scale, stride in zip(features, self.image_features.strides, strict=True)
        ]


def pixel_losses(
    network: PixelNetwork, scales: list[PixelLogits], batch: PixelBatch, config: PretrainConfig, weights: list[float]
) -> dict[str, Float[Tensor, ""]]:
    """Cross entropies of classes and depth, each the mean over the scales, and their weighted sum ``total``.

    Args:
        network: whose bins of depth count.
        scales: its logits.
        batch: with targets, on the same device.
        config: weights of the parts.
        weights: of the classes.
    """
    classes, depth = [], []
    for logits in scales:
        if logits.classes is None or logits.depth is None:
            raise ValueError("pretraining needs both heads")
        grid = (logits.classes.shape[-2], logits.classes.shape[-1])
        counts = class_counts(batch.classes, grid, logits.stride, logits.classes.shape[1])
        classes.append(cell_cross_entropy(logits.classes, counts, weights))
        bins = network.pixel_heads.bins
        depth.append(cell_cross_entropy(logits.depth, depth_counts(batch.depth_m, grid, logits.stride, bins)))
    losses = {"classes": torch.stack(classes).mean(), "depth": torch.stack(depth).mean()}
    losses["total"] = config.lambda_classes * losses["classes"] + config.lambda_depth * losses["depth"]
    return losses
