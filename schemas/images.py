"""From the camera file to the network's image: what the settings of a dataset say."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from schemas.settings import Frozen

REDUCTIONS: Final = (8, 4, 2)
"""Scales at which decoders of JPEG give an image for less work than its pixels."""
SMALLEST_SIDE_PX = 16
"""Two cells of the finest features of a network."""


class ImageSpec(Frozen):
    """From the camera file to the network's image: resize first, then crop."""

    resize: tuple[int, int] | None = Field(
        description="(width, height) in pixels that the file is resized to; null keeps the file's own size."
    )
    crop: tuple[int, int, int, int] = Field(description="(left, top, width, height) in pixels of the resized image.")

    decode: Literal["full", "reduced"] = Field(
        "full",
        exclude_if=lambda value: value == "full",
        description="reduced: JPEG files are decoded at a half, a quarter or an eighth of their size, where that "
        "divides it and is not below `resize`; faster, and other pixel values by a fraction of a level.",
    )

    @model_validator(mode="after")
    def _crop_inside(self) -> ImageSpec:
        left, top, width, height = self.crop
        if min(left, top) < 0 or min(width, height) < 1 or min(self.resize or (1,)) < 1:
            raise ValueError(f"crop {self.crop} and resize {self.resize} must be positive sizes in pixels")
        if self.resize is not None and not self.crop_fits(self.resize):
            raise ValueError(f"crop (left, top, width, height) {self.crop} leaves the resized image {self.resize}")
        return self

    def crop_fits(self, size: tuple[int, int]) -> bool:
        """Whether the crop lies inside an image of (width, height) pixels."""
        left, top, width, height = self.crop
        return left + width <= size[0] and top + height <= size[1]

    def resized(self, file_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after the resize of a file of (width, height) pixels."""
        return self.resize or file_size

    def reduction(self, file_size: tuple[int, int]) -> int:
        """1, 2, 4 or 8: by which a JPEG file of (width, height) pixels is decoded."""
        if self.decode == "full":
            return 1
        sides = list(zip(file_size, self.resized(file_size), strict=True))
        fits = (n for n in REDUCTIONS if all(side % n == 0 and side // n >= goal for side, goal in sides))
        return next(fits, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the network's image in pixels."""
        return (self.crop[3], self.crop[2])
