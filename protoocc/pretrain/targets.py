"""Image targets: network images with the class and the depth of their pixels, read from the stage `pixels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from protoocc.data import ShardSet
from protoocc.data.decode import decode_grey, decode_image
from protoocc.data.loader import Loader
from protoocc.labels import check_labels
from protoocc.shards.members import MemberReader
from schemas.outside import Source
from schemas.pixels import decode_depth
from schemas.shards import CLASSES_MEMBER, DEPTH_IMAGE_MEMBER, image_member

WORKERS: Final = "workers"
"""What the number of processes that read ahead is called in the settings."""
AGAIN: Final = "Run `protoocc pretrain targets --overwrite` (or fetch the image targets again)."


@dataclass(frozen=True)
class PixelBatch:
    """Images and what their pixels show.

    Attributes:
        images: RGB, 0..255.
        classes: class of each pixel; unknown where it is none of the table.
        depth_m: depth along the camera's axis, metres; 0 where unknown.
        names: of the keyframes.
    """

    images: UInt8[Tensor, "n 3 H W"]
    classes: UInt8[Tensor, "n H W"]
    depth_m: Float32[Tensor, "n H W"]
    names: list[str]

    def to(self, device: torch.device) -> PixelBatch:
        """The same batch on another device."""
        images, classes = (part.to(device, non_blocking=True) for part in (self.images, self.classes))
        return PixelBatch(images, classes, self.depth_m.to(device, non_blocking=True), self.names)

    def pin_memory(self) -> PixelBatch:
        """The same batch in pinned host memory; `torch.utils.data.DataLoader` calls this."""
        return PixelBatch(self.images.pin_memory(), self.classes.pin_memory(), self.depth_m.pin_memory(), self.names)


class PixelDataset(Dataset[PixelBatch]):
    """The keyframes of one split of image targets; item i has the images of all cameras of keyframe i."""

    def __init__(self, shards: ShardSet) -> None:
        """Opens nothing yet."""
        self.shards, self._reader = shards, MemberReader(shards)

    def __len__(self) -> int:
        """Number of keyframes."""
        return len(self.shards.samples)

    def __getitem__(self, index: int) -> PixelBatch:
        """Reads and decodes one keyframe.

        Raises:
            DataError: a member is damaged; names shard and sample.
        """
        dataset = self.shards.dataset
        where, members = self._members(index, self.shards.manifest.extensions)
        images = [decode_image(f"{where}, {name}", members[image_member(name)], dataset) for name in dataset.cameras]
        source = Source(f"{where}: {DEPTH_IMAGE_MEMBER}", AGAIN)
        depth = decode_grey(source, members[DEPTH_IMAGE_MEMBER], dataset, bits=16)
        return PixelBatch(
            torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))),
            self._decode_classes(where, members[CLASSES_MEMBER]),
            torch.from_numpy(decode_depth(depth)),
            [self.shards.samples[index][1].key],
        )

    def classes(self, index: int) -> UInt8[Tensor, "V H W"]:
        """Only the classes of one keyframe; raises as reading all of it does."""
        where, members = self._members(index, (CLASSES_MEMBER,))
        return self._decode_classes(where, members[CLASSES_MEMBER])

    def _decode_classes(self, where: str, data: bytes) -> UInt8[Tensor, "V H W"]:
        dataset = self.shards.dataset
        labels = decode_grey(Source(f"{where}: {CLASSES_MEMBER}", AGAIN), data, dataset, bits=8)
        check_labels(f"{where}: {CLASSES_MEMBER}", labels, dataset.classes, may_be_unknown=True)
        return torch.from_numpy(labels)

    def _members(self, index: int, names: Sequence[str]) -> tuple[str, dict[str, bytes]]:
        """How messages call a keyframe, and some of its members."""
        return self._reader.where(index), self._reader.read(index, names)


def collate(batches: Sequence[PixelBatch]) -> PixelBatch:
    """Keyframes to one batch, in their order; all have the same image size."""
    return PixelBatch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.classes for batch in batches]),
        torch.cat([batch.depth_m for batch in batches]),
        [name for batch in batches for name in batch.names],
    )


class _Numbered(Dataset[PixelBatch]):
    """Keyframes by a number that counts through all epochs (see `protoocc.data.EpochSampler`)."""

    def __init__(self, dataset: PixelDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> PixelBatch:
        return self.dataset[number % len(self.dataset)]


def pixel_loader(
    dataset: PixelDataset, batches: Sampler[list[int]] | Sequence[list[int]], *, workers: int, pin_memory: bool
) -> Loader[PixelBatch]:
    """Loader that reads the given batches in their order; they do not depend on the number of processes."""
    numbered = _Numbered(dataset)
    return Loader(numbered, collate, batches, workers=workers, pin_memory=pin_memory, setting=WORKERS)


def mirrored(batch: PixelBatch, chosen: Bool[Tensor, " n"]) -> PixelBatch:
    """The batch with some images and their targets mirrored from left to right."""
    images = torch.where(chosen[:, None, None, None], batch.images.flip(-1), batch.images)
    classes = torch.where(chosen[:, None, None], batch.classes.flip(-1), batch.classes)
    depth_m = torch.where(chosen[:, None, None], batch.depth_m.flip(-1), batch.depth_m)
    return PixelBatch(images, classes, depth_m, batch.names)


def recoloured(batch: PixelBatch, strength: Float32[Tensor, "n 3"]) -> PixelBatch:
    """The batch with each colour of each image multiplied by a strength, cut at 255."""
    images = (batch.images.float() * strength[:, :, None, None]).round().clamp(0, 255).to(torch.uint8)
    return PixelBatch(images, batch.classes, batch.depth_m, batch.names)
