"""Keyframes by number, from shards to batches; a map-style dataset over the offset index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from protoocc.augment import Augmentation
from protoocc.batch import Batch, stack_batches
from protoocc.data.ahead import FetchedAhead
from protoocc.data.clips import RecentViews
from protoocc.data.decode import (
    Keyframe,
    Past,
    Views,
    decode_keyframe,
    decode_occupancy,
    decode_poses,
    decode_views,
    join_past,
)
from protoocc.data.loader import Loader
from protoocc.shards import ShardSet
from protoocc.shards.members import MemberReader
from schemas.shards import META_MEMBER, OCCUPANCY_MEMBER, image_member

WORKERS: Final = "data.workers"
"""What the number of processes that read ahead is called in the settings."""


class ShardDataset(Dataset[Keyframe]):
    """Decoded keyframes of one split; item i is the i-th sample of the split."""

    def __init__(self, shards: ShardSet, *, frames: int = 1, interval: int = 4) -> None:
        """Opens nothing yet: files are opened in the process that reads them.

        Args:
            shards: the checked split.
            frames: keyframes that a sample holds: itself and the earlier ones that the network reads.
            interval: keyframes from one of them to the next.
        """
        self.shards = shards
        self.steps = tuple(interval * number for number in range(1, frames))
        self._places = {(sample.scene, sample.frame): index for index, (_, sample) in enumerate(shards.samples)}
        self._reader = MemberReader(shards)
        self._recent = RecentViews(max(self.steps, default=0) + 1)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.shards.samples)

    def __getitem__(self, index: int) -> Keyframe:
        """Reads and decodes one sample.

        Raises:
            DataError: a member is damaged; names shard and sample.
        """
        shard, sample = self.shards.samples[index]
        keyframe = decode_keyframe(
            shard, sample, self._reader.read(index, self.shards.manifest.joined_extensions), self.shards.dataset
        )
        if not self.steps:
            return keyframe
        self._recent.keep(index, keyframe)
        views = [self._recent.get(number, self._views) for number in self.earlier(index)]
        return dataclasses.replace(keyframe, past=join_past(keyframe, views))

    def earlier(self, index: int) -> list[int]:
        """Sample numbers of the earlier keyframes of a sample, the nearest first.

        A keyframe before the start of its scene, or that the split leaves out, is replaced by the one after it in this
        list, at last by the sample itself: the network then sees the same place again, without motion.
        """
        _, sample = self.shards.samples[index]
        numbers = [index]
        for step in self.steps:
            numbers.append(self._places.get((sample.scene, sample.frame - step), numbers[-1]))
        return numbers[1:]

    def missing_earlier(self) -> tuple[int, int]:
        """Earlier keyframes that the split leaves out, and all that lie in a scene: what `earlier` had to replace.

        Keyframes before the start of a scene do not count.
        """
        wanted = [
            (sample.scene, sample.frame - step)
            for _, sample in self.shards.samples
            for step in self.steps
            if sample.frame >= step
        ]
        return sum(place not in self._places for place in wanted), len(wanted)

    def occupancy(self, index: int) -> dict[str, UInt8[np.ndarray, "X Y Z"]]:
        """Only the label arrays of one sample: semantics, mask_lidar, mask_camera."""
        shard, sample = self.shards.samples[index]
        data = self._reader.read(index, [OCCUPANCY_MEMBER])[OCCUPANCY_MEMBER]
        return decode_occupancy(f"{shard}, sample {sample.key}", data, self.shards.dataset)

    def poses(self, index: int) -> tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "4 4"] | None]:
        """Only `global_from_ego` and, where the shards hold it, `ego_from_lidar` of one sample."""
        shard, sample = self.shards.samples[index]
        meta = self._reader.read(index, [META_MEMBER])[META_MEMBER]
        return decode_poses(shard, sample, meta, self.shards.dataset)

    def fetch(self, index: int) -> None:
        """Brings a sample and its earlier keyframes here, where the shards lie elsewhere.

        Raises:
            DataError: their bytes are not those of the index.
            StageError: the line broke too often.
        """
        for number in dict.fromkeys([index, *self.earlier(index)]):
            self._reader.fetch(number)

    def arriving(self, numbers: Iterable[int]) -> Iterator[int]:
        """The same numbers, each when its sample is here: those of a stream are fetched ahead.

        Raises:
            ProtoOccError: as `fetch`.
        """
        if self.shards.remote is None:
            yield from numbers
        else:
            yield from (number for (number,) in FetchedAhead([[number] for number in numbers], self))

    def close(self) -> None:
        """Closes all shards that this process opened; reading opens them again."""
        self._reader.close()

    def _views(self, index: int) -> Views:
        shard, sample = self.shards.samples[index]
        names = (*map(image_member, self.shards.dataset.cameras), META_MEMBER)
        return decode_views(shard, sample, self._reader.read(index, names), self.shards.dataset)


def to_batch(keyframe: Keyframe) -> Batch:
    """A batch of one."""
    segments = keyframe.segment_id
    return Batch(
        images=torch.from_numpy(np.ascontiguousarray(keyframe.images.transpose(0, 3, 1, 2)))[None],
        image_from_camera=torch.from_numpy(keyframe.image_from_camera)[None],
        camera_from_ego=torch.from_numpy(keyframe.camera_from_ego)[None],
        tokens=[keyframe.token],
        segment_id=None if segments is None else torch.from_numpy(segments.astype(np.int32))[None],
        semantics=torch.from_numpy(keyframe.semantics.copy())[None],
        mask_camera=torch.from_numpy(keyframe.mask_camera != 0)[None],
        mask_lidar=torch.from_numpy(keyframe.mask_lidar != 0)[None],
        depth_m=None if keyframe.depth_m is None else torch.from_numpy(keyframe.depth_m)[None],
        pixel_classes=None if keyframe.pixel_classes is None else torch.from_numpy(keyframe.pixel_classes)[None],
        input_depth_m=None if keyframe.input_depth_m is None else torch.from_numpy(keyframe.input_depth_m)[None],
        **({} if keyframe.past is None else _past_fields(keyframe.past)),  # type: ignore[arg-type]
    )


def _past_fields(past: Past) -> dict[str, Tensor]:
    return {
        "past_images": torch.from_numpy(np.ascontiguousarray(past.images.transpose(0, 1, 4, 2, 3)))[None],
        "past_image_from_camera": torch.from_numpy(past.image_from_camera)[None],
        "past_camera_from_ego": torch.from_numpy(past.camera_from_ego)[None],
        "past_from_ego": torch.from_numpy(past.past_from_ego)[None],
    }


def collate(keyframes: Sequence[Keyframe]) -> Batch:
    """Keyframes to one batch, in their order.

    Raises:
        DataError: the list is empty.
    """
    return stack_batches([to_batch(keyframe) for keyframe in keyframes])


class _Numbered(Dataset[Batch]):
    """Samples as batches of one, by a number that counts through all epochs (see `EpochSampler`)."""

    def __init__(self, dataset: ShardDataset, augment: Augmentation | None) -> None:
        self.dataset, self.augment = dataset, augment

    def __getitem__(self, number: int) -> Batch:
        sample = to_batch(self.dataset[number % len(self.dataset)])
        return sample if self.augment is None else self.augment(sample, number)


def make_loader(
    dataset: ShardDataset,
    batches: Sampler[list[int]] | Sequence[list[int]],
    *,
    workers: int,
    pin_memory: bool,
    augment: Augmentation | None = None,
) -> Loader[Batch]:
    """Loader that reads the given batches in their order.

    Args:
        dataset: the split.
        batches: numbers of the samples of each batch, as `EpochSampler` counts them.
        workers: processes that read ahead; 0 reads in this process. The batches do not depend on it.
        pin_memory: put batches into pinned memory, for copies to a GPU.
        augment: changes each sample at random, where it is read.
    """
    numbered = _Numbered(dataset, augment)
    given = batches if dataset.shards.remote is None else FetchedAhead(batches, dataset)
    return Loader(numbered, stack_batches, given, workers=workers, pin_memory=pin_memory, setting=WORKERS)
