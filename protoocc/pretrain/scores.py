"""How well the heads tell the class and the depth of single pixels of held-out images."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from protoocc.model.backbone import padded_size
from protoocc.pretrain.network import PixelNetwork
from protoocc.pretrain.targets import PixelBatch, PixelDataset, pixel_loader
from schemas.classes import ClassTable
from schemas.settings import Frozen


class PixelScores(Frozen):
    """Scores of the finest scale over all pixels with a target; null where no pixel has one."""

    images: int = Field(description="Held-out images.")
    pixel_accuracy: float | None = Field(description="Share of pixels whose class is told, 0..1.")
    miou: float | None = Field(description="Mean IoU over the classes that occur, 0..1; the sky is free space.")
    classes: dict[str, float] = Field(description="IoU of each class that occurs in labels or prediction.")
    depth_error_m: float | None = Field(description="Mean absolute error of the depth within its range, metres.")
    depth_error: float | None = Field(description="Mean absolute error of the depth as a share of the true one.")


class _Sums:
    """What is added up over images."""

    def __init__(self, classes: int) -> None:
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.depth = torch.zeros(3, dtype=torch.float64)
        self.images = 0

    def add(self, network: PixelNetwork, batch: PixelBatch) -> None:
        logits = network(batch.images)[0]
        if logits.classes is None or logits.depth is None:
            raise ValueError("pretraining needs both heads")
        self.images += len(batch.images)
        predicted = at_pixels(logits.classes.float(), batch.images).argmax(1)
        classes = len(self.confusion)
        known = batch.classes < classes
        pairs = batch.classes[known].long() * classes + predicted[known]
        self.confusion += torch.bincount(pairs, minlength=classes**2).view(classes, classes).cpu()
        bins = network.pixel_heads.bins
        depth_m = at_pixels(bins.expected_m(logits.depth).log()[:, None], batch.images)[:, 0].exp()
        inside = (batch.depth_m > 0) & (batch.depth_m <= bins.farthest_m)
        error = (depth_m - batch.depth_m)[inside].abs().double()
        share = error / batch.depth_m[inside].double()
        self.depth += torch.stack([error.sum(), share.sum(), inside.sum().double()]).cpu()


def at_pixels(cells: Float[Tensor, "n c h w"], images: Tensor) -> Float[Tensor, "n c H W"]:
    """Values of cells at the pixels of the unpadded images, between the middles of cells."""
    height, width = images.shape[-2:]
    full = functional.interpolate(cells, padded_size(height, width), mode="bilinear", align_corners=False)
    return full[..., :height, :width]


@torch.no_grad()
def score_pixels(
    network: PixelNetwork, dataset: PixelDataset, classes: ClassTable, device: torch.device
) -> PixelScores:
    """Scores of a network, which is in evaluation mode, over a split of image targets.

    Raises:
        DataError: a sample is damaged.
    """
    sums = _Sums(classes.num_classes)
    order = [[index] for index in range(len(dataset))]
    for batch in pixel_loader(dataset, order, workers=0, pin_memory=False):
        sums.add(network, batch.to(device))
    return _scores(sums, classes)


def _scores(sums: _Sums, classes: ClassTable) -> PixelScores:
    confusion = sums.confusion
    right, total = confusion.diag(), int(confusion.sum())
    union: Int64[Tensor, " L"] = confusion.sum(0) + confusion.sum(1) - right
    ious = {
        name: int(right[index]) / int(union[index]) for index, name in enumerate(classes.names) if int(union[index]) > 0
    }
    metres, share, count = sums.depth.tolist()
    return PixelScores(
        images=sums.images,
        pixel_accuracy=int(right.sum()) / total if total else None,
        miou=sum(ious.values()) / len(ious) if ious else None,
        classes=ious,
        depth_error_m=metres / count if count else None,
        depth_error=share / count if count else None,
    )
