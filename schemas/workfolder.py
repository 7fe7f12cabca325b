"""The work folder of a dataset: the names of its stores, of a stage's own files, and the fields of a manifest."""

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
        return self.root / "geometry.zarr"

    @property
    def occupancy(self) -> Path:
        """Stage `occupancy`: labels and visibility masks."""
        return self.root / "occupancy.zarr"

    @property
    def shards(self) -> Path:
        """Stage `pack`: tars, indexes and the shard manifest."""
        return self.root / "shards"

    def masks(self, generator: str) -> Path:
        """Stage `masks` of one generator: pseudo masks."""
        return self.root / f"{_MASKS_PREFIX}{generator}.zarr"

    def generators(self) -> list[str]:
        """Generators whose stores exist, in alphabetical order."""
        return sorted(
            path.name.removeprefix(_MASKS_PREFIX).removesuffix(".zarr") for path in self.root.glob("masks-*.zarr")
        )


class StagePlan(BaseModel):
    """`plan.json`: everything that decides the bytes of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="Name of the stage.")
    format_version: int = Field(description="`schemas.store.FORMAT_VERSION` of the program that wrote it.")
    config: dict[str, Any] = Field(description="Settings of the stage.")
    inputs: dict[str, str] = Field(description="Fingerprints of what the stage reads.")
    on_error: Literal["fail", "drop"] = Field(description="What bad samples do.")


class StageManifest(StagePlan):
    """`manifest.json` of a finished stage; stages add entries of their own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    done: int = Field(ge=0, description="Samples that the stage finished.")
    dropped: dict[str, str] = Field(description="Token of each dropped sample and why.")
    counts: dict[str, float] = Field(description="Figures added up over all units.")
    num_bytes: int = Field(0, ge=0, description="Size of the stage's other files, so that nobody has to look at each.")
