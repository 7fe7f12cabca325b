"""Augmentation of training samples: colours, blanked squares and flips, each decided by seed and sample alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from protoocc.augment.config import AugmentConfig
from protoocc.augment.flips import Axis, check_symmetric, flip_images, mirror_scene
from protoocc.augment.grid_mask import draw_grid_mask
from protoocc.augment.photometric import Distortion, distort, draw_distortion
from protoocc.batch import Batch
from schemas.geometry import VoxelGrid

__all__ = ["AugmentConfig", "Augmentation", "check_augment"]

BLANK: Final = (124, 116, 104)
"""RGB of blanked pixels: the mean colour of ImageNet, zero for a network that subtracts it."""

_AXES: Final[tuple[Axis, ...]] = ("x", "y")


def check_augment(config: AugmentConfig, grid: VoxelGrid) -> None:
    """Refuses flips that the grid of the labels does not allow.

    Raises:
        ConfigError: the grid is not symmetric along an axis that is flipped.
    """
    for axis in _AXES:
        if _share(config, axis) > 0:
            check_symmetric(grid, axis)


@dataclass(frozen=True)
class Augmentation:
    """Changes one sample at random.

    The same seed and number give the same sample, whoever reads it and whenever: resuming, other numbers of readers and
    other numbers of processes change nothing.

    Attributes:
        config: what is done; the grid of the labels must pass `check_augment`.
        seed: of the run.
    """

    config: AugmentConfig
    seed: int

    def __call__(self, batch: Batch, number: int) -> Batch:
        """The sample as the network sees it this time.

        Args:
            batch: a single sample.
            number: counts samples through all epochs, so that each epoch has a draw of its own.
        """
        if self.config == AugmentConfig():
            return batch
        generator = np.random.default_rng([self.seed, number])
        draws = [draw_distortion(self.config, generator) for _ in range(batch.images.shape[1])]
        shares = generator.random(4)
        blank = draw_grid_mask((batch.images.shape[-2], batch.images.shape[-1]), generator)
        batch = _recoloured(batch, draws, blank if shares[0] < self.config.grid_mask else None)
        if shares[1] < self.config.flip_images:
            batch = flip_images(batch)
        for axis, share in zip(_AXES, shares[2:], strict=True):
            if share < _share(self.config, axis):
                batch = mirror_scene(batch, axis)
        return batch


def _share(config: AugmentConfig, axis: Axis) -> float:
    return config.flip_x if axis == "x" else config.flip_y


def _recoloured(batch: Batch, draws: list[Distortion], blank: np.ndarray | None) -> Batch:
    """The batch with its images distorted camera by camera, then blanked; earlier images like the present ones."""
    changed = {"images": _images(batch.images, draws, blank)}
    if batch.past_images is not None:
        changed["past_images"] = _images(batch.past_images, draws, blank)
    return dataclasses.replace(batch, **changed)  # type: ignore[arg-type]


def _images(
    images: UInt8[Tensor, "*frames V 3 H W"], draws: list[Distortion], blank: np.ndarray | None
) -> UInt8[Tensor, "*frames V 3 H W"]:
    pictures = images.movedim(-3, -1).contiguous().numpy()
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    distorted = np.stack([distort(picture, draws[number % len(draws)]) for number, picture in enumerate(flat)])
    if blank is not None:
        distorted[:, blank] = BLANK
    return torch.from_numpy(distorted.reshape(pictures.shape)).movedim(-1, -3).contiguous()
