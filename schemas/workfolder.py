"""The work folder of a dataset: names of its stores and of a stage's own files, and the fields that those have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

PLAN: Final = "plan.json"
"""Configuration and input fingerprints, written before the first unit."""
UNITS: Final = "units"
"""Folder of one marker per finished unit."""
MANIFEST: Final = "manifest.json"
"""Written last: readers refuse a folder without it."""

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
    """`plan.json`: everything that decides the bytes of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="Name of the stage.")
    format_version: int = Field(description="`schemas.store.FORMAT_VERSION` of the program that wrote it.")
    config: dict[str, Any] = Field(description="Settings of the stage.")
    inputs: dict[str, str] = Field(description="SHA-256 of each input's manifest, or of the raw tables.")
    on_error: Literal["fail", "drop"] = Field(description="What bad samples do.")


class UnitMarker(BaseModel):
    """`units/<unit>.json`: what a finished unit did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: int = Field(ge=0, description="Finished samples.")
    dropped: dict[str, str] = Field(description="Token of each dropped sample and why.")
    counts: dict[str, float] = Field(description="Figures of the stage, such as labelled voxels by source.")


class StageManifest(UnitMarker, StagePlan):
    """`manifest.json` of a finished stage: its plan and the sum over its units; stages add entries of their own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    num_bytes: int = Field(0, ge=0, description="Size of the stage's other files, so that nobody has to look at each.")
