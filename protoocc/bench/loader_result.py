"""What `protoocc bench loader` is asked and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import Field

from schemas.settings import Frozen

Part = Literal["decode", "bytes", "stream", "open"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
PER_SHARD: Final = 32
"""Samples of a tar of the sets that the bench makes."""
FULL: Final = 34_149
"""Keyframes of training and validation of nuScenes."""


class LoaderChoice(Frozen):
    """What to measure."""

    parts: tuple[Part, ...] = Field(PARTS, description="Which comparisons.")
    samples: int = Field(64, ge=1, description="Samples of a round of decoding, the first ones of the split.")
    streamed: int = Field(320, ge=2 * PER_SHARD, description="Samples of the set that bytes and stream read.")
    rounds: int = Field(3, ge=1, description="Interleaved rounds; the best of each way counts.")
    workers: int = Field(2, ge=1, description="Processes that read.")
    indexed: int = Field(FULL, ge=1, description="Samples of the index that is opened.")
    images: Path | None = Field(None, description="JPEGs of 1600x900 for the peers' way; None: enlarged ones.")


class LoaderRow(Frozen):
    """One way of one part."""

    part: str = Field(description="The comparison.")
    way: str = Field(description="Who reads.")
    best: float | None = Field(description="Of all rounds; None where it was not measured.")
    unit: str = Field(description="Of it.")
    note: str = Field("", description="What it does, or why it was not measured.")


class LoaderRatio(Frozen):
    """One figure that is wanted."""

    what: str = Field(description="What is compared.")
    value: float = Field(description="Measured.")
    wanted: float = Field(description="Bound.")
    is_most: bool = Field(False, description="Whether the bound is the largest value rather than the smallest.")

    @property
    def is_met(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value <= self.wanted if self.is_most else self.value >= self.wanted


class LoaderBench(Frozen):
    """All rows, and what is wanted of them."""

    shards: str = Field(description="Folder that was read.")
    split: str = Field(description="Its split.")
    image_shape: tuple[int, int] = Field(description="(H, W) of its images, pixels.")
    samples: int = Field(description="Samples of a round of decoding.")
    rounds: int = Field(description="Interleaved rounds.")
    workers: int = Field(description="Processes that read.")
    rows: tuple[LoaderRow, ...] = Field(description="In order of the parts.")
    ratios: tuple[LoaderRatio, ...] = Field(description="In order of the parts.")
