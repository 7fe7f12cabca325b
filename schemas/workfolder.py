"""The work folder of a dataset: names of its stores and of a stage's own files, and the fields that those have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

PLAN: Final = "plan.json"
"""Configuration and input fingerprints, written before the first unit."""
UNITS: Final = "units"
"""Folder of one marker per finished unit."""
MANIFEST: Final = "manifest.json"
"""Written last: readers refuse a folder without it."""
CHECKSUMS: Final = "checksums.npy"
"""SHA-256 of each row of a store, uint8 (N, 32): over the sample's token and the files of its chunks."""

_MASKS_PREFIX: Final = "masks-"
_STORE_SUFFIX: Final = ".zarr"


@dataclass(frozen=True)
class WorkFolder:
    """Where each stage of a dataset writes."""

    root: Path

    @property
    def records(self) -> Path:
        """Stage `records`: samples.jsonl and its index."""
        return self.root / "records"

    @property
    def geometry(self) -> Path:
        """Stage `geometry`: camera matrices."""
        return self.root / f"geometry{_STORE_SUFFIX}"

    @property
    def occupancy(self) -> Path:
        """Stage `occupancy`: labels and visibility masks."""
        return self.root / f"occupancy{_STORE_SUFFIX}"

    @property
    def shards(self) -> Path:
        """Stage `pack`: tars, indexes and the shard manifest."""
        return self.root / "shards"

    @property
    def pixels(self) -> Path:
        """Stage `pixels`: images with per-pixel classes and depth, for pretraining."""
        return self.root / "pixels"

    @property
    def class_images(self) -> Path:
        """Stage `class-images`: the class of each camera pixel."""
        return self.root / "class-images"

    def masks(self, generator: str) -> Path:
        """Stage `masks` of one generator: pseudo masks."""
        return self.root / f"{_MASKS_PREFIX}{generator}{_STORE_SUFFIX}"

    def generators(self) -> list[str]:
        """Generators whose stores exist, in alphabetical order."""
        stores = self.root.glob(f"{_MASKS_PREFIX}*{_STORE_SUFFIX}")
        return sorted(store.name.removeprefix(_MASKS_PREFIX).removesuffix(_STORE_SUFFIX) for store in stores)

    def inputs(self, generator: str | None) -> dict[str, Path]:
        """Folders by the names that plans give their inputs.

        Args:
            generator: of the masks that a pack reads; None where a stage reads none.
        """
        folders = {"records": self.records, "geometry": self.geometry, "occupancy": self.occupancy}
        return folders if generator is None else folders | {"masks": self.masks(generator)}


class StagePlan(BaseModel):
    """What decides the bytes of a stage, and what made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="Name of the stage.")
    format_version: int = Field(description="`schemas.store.FORMAT_VERSION` of the program that wrote it.")
    config: dict[str, Any] = Field(description="Settings of the stage.")
    dataset: dict[str, Any] = Field({}, description="The fields of the dataset's entry that decide its bytes.")
    inputs: dict[str, str] = Field(description="Fingerprints of what the stage reads.")
    stores: dict[str, str] = Field(
        {}, description="Which inputs are stages themselves, and their folders, relative to this one."
    )
    command: str = Field("", description="Command line that makes it, without --overwrite; not part of comparisons.")


FileStamp = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, SHA-256 of a raw file."""


class PlanFile(StagePlan):
    """`plan.json`, written before the first unit."""

    units: tuple[str, ...] = Field((), description="Names of all units.")
    read: dict[str, FileStamp | None] = Field({}, description="Raw files that the whole stage reads, such as tables.")


class UnitFigures(BaseModel):
    """What one unit, or all units together, did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: int = Field(ge=0, description="Finished samples.")
    dropped: dict[str, str] = Field(description="Token of each dropped sample and why.")
    counts: dict[str, float] = Field(description="Figures of the stage, such as labelled voxels by source.")


class UnitMarker(UnitFigures):
    """`units/<unit>.json`: what a finished unit did, from which raw files, and which files it wrote."""

    read: dict[str, FileStamp | None] = Field(
        {},
        description="Raw files, relative to the dataset's root where they lie below it; null: absent or unreadable.",
    )
    wrote: dict[str, tuple[int, str]] = Field(
        {}, description="Files below the stage's folder: size and SHA-256. A chunk that is all fill value has none."
    )


class StageManifest(UnitFigures, StagePlan):
    """`manifest.json` of a finished stage: its plan and the sum over its units; stages add entries of their own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    files: dict[str, str] = Field({}, description="SHA-256 of the files that belong to no unit.")
    num_bytes: int = Field(0, ge=0, description="Size of the stage's other files, so that nobody has to look at each.")
