"""What the network eats: one batch of keyframes as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from schemas.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of keyframes; B batch, T earlier frame, V camera, H W image, X Y Z voxel.

    Whole numbers keep small types on their way from the reader to the device; losses widen what they pick.

    Training targets are optional, because prediction needs none of them. So are earlier frames, the nearest first.

    Attributes:
        images: RGB, 0..255.
        image_from_camera: intrinsics of the image as it stands in ``images``, pixels.
        camera_from_ego: pose of the ego frame in each camera frame, metres.
        tokens: sample token of each keyframe.
        segment_id: pseudo mask of each pixel; 65535 (`schemas.store.NO_SEGMENT`) is no mask.
        semantics: class of each voxel, ego frame; unknown where it is `ClassTable.ignored`.
        mask_camera: voxel is observed by a camera.
        mask_lidar: voxel is observed by the LiDAR.
        depth_m: measured depth of each pixel along the camera's axis, metres; 0 where there is none.
        pixel_classes: class of each pixel that was measured; unknown elsewhere. Given wherever ``depth_m`` is.
        input_depth_m: depth of each pixel that a network may read, metres; 0 where there is none. Maps of the user's
            where the shards hold some, else what the LiDAR measured.
        past_images: images of earlier keyframes.
        past_image_from_camera: their intrinsics, pixels.
        past_camera_from_ego: ego frame of the earlier keyframe in each of its cameras, metres.
        past_from_ego: pose of the present ego frame in the ego frame of each earlier keyframe, metres.
        seeds: of all random numbers that a training step draws for each sample (`protoocc.draws`); None draws from
            torch's global generator.
    """

    images: UInt8[Tensor, "B V 3 H W"]
    image_from_camera: Float[Tensor, "B V 3 3"]
    camera_from_ego: Float[Tensor, "B V 4 4"]
    tokens: list[str]
    segment_id: Integer[Tensor, "B V H W"] | None = None
    semantics: Integer[Tensor, "B X Y Z"] | None = None
    mask_camera: Bool[Tensor, "B X Y Z"] | None = None
    mask_lidar: Bool[Tensor, "B X Y Z"] | None = None
    depth_m: Float[Tensor, "B V H W"] | None = None
    pixel_classes: UInt8[Tensor, "B V H W"] | None = None
    input_depth_m: Float[Tensor, "B V H W"] | None = None
    past_images: UInt8[Tensor, "B T V 3 H W"] | None = None
    past_image_from_camera: Float[Tensor, "B T V 3 3"] | None = None
    past_camera_from_ego: Float[Tensor, "B T V 4 4"] | None = None
    past_from_ego: Float[Tensor, "B T 4 4"] | None = None
    seeds: list[int] | None = None

    @property
    def past(self) -> list[tuple[UInt8[Tensor, "B V 3 H W"], Float[Tensor, "B V 3 3"], Float[Tensor, "B V 4 4"]]]:
        """Images, intrinsics and camera poses of each earlier keyframe, the nearest first."""
        if self.past_images is None or self.past_image_from_camera is None or self.past_camera_from_ego is None:
            return []
        parts = (self.past_images, self.past_image_from_camera, self.past_camera_from_ego)
        return list(zip(*(part.unbind(1) for part in parts), strict=True))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (copies asynchronously from pinned memory)."""
        moved = {name: value.to(device, non_blocking=True) for name, value in _tensors(self).items()}
        return dataclasses.replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """The same batch in pinned host memory; `torch.utils.data.DataLoader` calls this."""
        pinned = {name: value.pin_memory() for name, value in _tensors(self).items()}
        return dataclasses.replace(self, **pinned)  # type: ignore[arg-type]


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """Joins batches along B, in their order: the collate function of single samples.

    Args:
        batches: at least one; all with the same cameras, image size, grid and the same targets present.

    Raises:
        DataError: the list is empty, or shapes or targets differ; names the sample tokens.
    """
    if not batches:
        raise DataError("cannot stack zero samples into a batch; expected at least one")
    names = set(_tensors(batches[0]))
    fields: dict[str, Tensor] = {}
    for batch in batches:
        if set(_tensors(batch)) != names:
            raise DataError(f"samples {batches[0].tokens} have {sorted(names)}, {batch.tokens} differ: pack all alike")
    for name in sorted(names):
        parts = [_tensors(batch)[name] for batch in batches]
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            tokens = [token for batch in batches for token in batch.tokens]
            raise DataError(f"samples {tokens}: '{name}' has shapes {sorted(shapes)}; a batch needs one shape")
        fields[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    tokens = [token for batch in batches for token in batch.tokens]
    seeds = [seed for batch in batches for seed in batch.seeds or ()]
    return Batch(tokens=tokens, seeds=seeds if len(seeds) == len(tokens) else None, **fields)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
