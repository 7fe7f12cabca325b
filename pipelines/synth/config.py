"""What a generated world looks like, and what a finished run reports."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from schemas.settings import Frozen


class WorldConfig(Frozen):
    """A generated world, whatever its format; all of it decides its bytes."""

    scenes: int = Field(default=4, ge=1, le=1000, description="Number of scenes, each with its own streets.")
    keyframes: int = Field(default=20, ge=1, description="Keyframes of each scene, 0.5 s apart.")
    seed: int = Field(default=0, ge=0, description="Seed of everything that is left to chance.")
    slope: float = Field(
        default=0.03,
        ge=0,
        le=0.08,
        description="Steepest slope of the ground, metres per metre. As in nuScenes, the tables keep the vehicle's "
        "lean but not its height in nuScenes format: ego poses have z = 0, and boxes stand as high as they look from "
        "there. Poses of SemanticKITTI have all of it.",
    )
    depth: bool = Field(
        default=False, description="Also write the exact depth of each pixel: `<camera>-depth.png` beside the classes."
    )


class SynthConfig(WorldConfig):
    """A generated world in nuScenes format."""

    image_width: int = Field(
        default=800, ge=32, multiple_of=16, description="Image width, pixels; height is 9/16 of it."
    )
    sweeps_per_keyframe: int = Field(
        default=9, ge=0, le=9, description="LiDAR sweeps between two keyframes, evenly spread; 9 is 20 Hz."
    )

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image_width, self.image_width * 9 // 16


class KittiConfig(WorldConfig):
    """A generated world in SemanticKITTI format: each keyframe is 5 scans, of which the first has image and voxels."""

    format: Literal["semantickitti"] = Field(default="semantickitti", description="Tells its manifest from others.")
    keyframes: int = Field(default=20, ge=1, le=2000, description="Keyframes of each sequence, 0.5 s (5 scans) apart.")
    image_width: int = Field(default=1241, ge=64, description="Image width, pixels; height is 376/1241 of it, rounded.")
    azimuths: int = Field(default=1024, ge=64, le=4096, description="Directions of each of the 64 beams in a scan.")

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image_width, round(self.image_width * 376 / 1241)


class SynthSummary(Frozen):
    """Figures for the end of a run."""

    root: Path = Field(description="`root` of an entry of datasets.yaml.")
    version: str = Field(description="Folder of the tables, or of `sequences`.")
    scenes: int = Field(description="Number of scenes.")
    keyframes: int = Field(description="Keyframes of all scenes together.")
    voxels: dict[str, int] = Field(description="Occupied voxels of each class that occurs, over all keyframes.")
    seconds: float = Field(description="Wall-clock time of this run, seconds.")
    num_bytes: int = Field(description="Size of the world, bytes.")
    is_skipped: bool = Field(description="The world had been finished before; nothing was done.")
