"""Where moments to predict come from: anything that gives images and calibration; shards are one such source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from protoocc.batch import Batch, stack_batches
from protoocc.data import Keyframe, ShardDataset, ShardSet
from protoocc.data.decode import Past, Views, join_past
from protoocc.network import NetworkConfig
from schemas.errors import DataError

_FILE_NAME: Final = re.compile(r"[^/\\.\x00][^/\\\x00]{0,199}")
"""What becomes a file name holds no separators and starts with no dot."""


class Moment(NamedTuple):
    """A keyframe to predict."""

    token: str
    """Sample token: the name of its Occ3D file."""
    key: str
    """Name of its other files, such as `<scene>-<frame>`."""
    scene: str
    frame: int | None
    """Number of the keyframe within its scene; None for photos that belong to no drive."""


@dataclass(frozen=True)
class Shot:
    """What a network reads at a moment, and the labels where there are some.

    Attributes:
        views: images and calibration.
        past: earlier keyframes; None for networks that read one.
        truth: the keyframe with its labels, for pictures.
    """

    views: Views
    past: Past | None = None
    truth: Keyframe | None = None


@runtime_checkable
class Source(Protocol):
    """Moments in a fixed order, each read when it is needed."""

    name: str
    """For titles: dataset, records or calibration file."""
    cameras: tuple[str, ...]
    """Names in the order of the V axis."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that is read."""

    @property
    def moments(self) -> Sequence[Moment]:
        """What is predicted."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other moments."""

    def read(self, index: int) -> Shot:
        """Images and calibration of one moment.

        Raises:
            DataError: something is missing or damaged.
        """


class ShardSource:
    """The samples of a split of packed shards."""

    def __init__(self, shards: ShardSet, config: NetworkConfig, *, single_frame: bool) -> None:
        """Earlier keyframes are read where the network wants them, unless ``single_frame`` says otherwise."""
        self.name, self.cameras = f"{shards.dataset.name}, split {shards.split}", shards.dataset.cameras
        self.fingerprint = shards.fingerprint
        self._numbers = list(range(len(shards.samples)))
        frames = 1 if single_frame else config.frames
        self._dataset = ShardDataset(shards, frames=frames, interval=config.frame_interval)

    @property
    def moments(self) -> Sequence[Moment]:
        """The samples that are kept."""
        samples = [self._dataset.shards.samples[number][1] for number in self._numbers]
        return [Moment(sample.token, sample.key, sample.scene, sample.frame) for sample in samples]

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other moments; they are still read as earlier keyframes."""
        self._numbers = [self._numbers[number] for number in numbers]

    def read(self, index: int) -> Shot:
        """Decodes a sample.

        Raises:
            DataError: a member is damaged.
        """
        keyframe = self._dataset[self._numbers[index]]
        return Shot(keyframe, keyframe.past, keyframe)


def check_names(source: Source) -> None:
    """Whether tokens and keys can be file names, each another one.

    Raises:
        DataError: one cannot, or is there twice.
    """
    for field in ("token", "key"):
        names = [getattr(moment, field) for moment in source.moments]
        wrong = [name for name in names if not _FILE_NAME.fullmatch(name)]
        if wrong or len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            what = f"{wrong[0]!r} is no file name" if wrong else f"{twice!r} is there twice"
            raise DataError(f"{source.name}: {field} {what}, and predictions are files of these names. Rename it.")


def to_batch(moments: Sequence[Moment], shots: Sequence[Shot], frames: int) -> Batch:
    """Images and calibration of some moments as a batch without labels.

    Args:
        moments: their names.
        shots: what to read.
        frames: keyframes that the network reads. Where a shot has no earlier ones, the moment itself stands for them,
            without motion, as at the start of a scene.
    """
    return stack_batches([_one(moment, shot, frames - 1) for moment, shot in zip(moments, shots, strict=True)])


def _one(moment: Moment, shot: Shot, earlier: int) -> Batch:
    views, past = shot.views, shot.past
    if past is None and earlier:
        past = join_past(views, [views] * earlier)
    fields = {}
    if past is not None:
        fields = {
            "past_images": torch.from_numpy(np.ascontiguousarray(past.images.transpose(0, 1, 4, 2, 3)))[None],
            "past_image_from_camera": torch.from_numpy(past.image_from_camera)[None],
            "past_camera_from_ego": torch.from_numpy(past.camera_from_ego)[None],
            "past_from_ego": torch.from_numpy(past.past_from_ego)[None],
        }
    return Batch(
        images=torch.from_numpy(np.ascontiguousarray(views.images.transpose(0, 3, 1, 2)))[None],
        image_from_camera=torch.from_numpy(views.image_from_camera)[None],
        camera_from_ego=torch.from_numpy(views.camera_from_ego)[None],
        tokens=[moment.token],
        input_depth_m=None if views.input_depth_m is None else torch.from_numpy(views.input_depth_m)[None],
        **fields,  # type: ignore[arg-type]
    )
