"""What a generated world looks like, and what a finished run reports."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from schemas.settings import Frozen


class SynthConfig(Frozen):
    """A generated world; all of it decides its bytes."""

    scenes: int = Field(default=4, ge=1, le=1000, description="Number of scenes, each with its own streets.")
    keyframes: int = Field(default=20, ge=1, description="Keyframes of each scene, 0.5 s apart.")
    seed: int = Field(default=0, ge=0, description="Seed of everything that is left to chance.")
    image_width: int = Field(
        default=800, ge=32, multiple_of=16, description="Image width, pixels; height is 9/16 of it."
    )
    sweeps_per_keyframe: int = Field(
        default=9, ge=0, le=9, description="LiDAR sweeps between two keyframes, evenly spread; 9 is 20 Hz."
    )
    slope: float = Field(
        default=0.03,
        ge=0,
        le=0.08,
        description="Steepest slope of the ground, metres per metre. As in nuScenes, the tables keep the vehicle's "
        "lean but not its height: ego poses have z = 0, and boxes stand as high as they look from there.",
    )
    depth: bool = Field(
        default=False, description="Also write the exact depth of each pixel: `<camera>-depth.png` beside the classes."
    )

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image_width, self.image_width * 9 // 16


class SynthSummary(Frozen):
    """Figures for the end of a run."""

    root: Path = Field(description="Folder to give to nuScenes readers.")
    version: str = Field(description="Folder of the tables.")
    scenes: int = Field(description="Number of scenes.")
    keyframes: int = Field(description="Keyframes of all scenes together.")
    voxels: dict[str, int] = Field(description="Occupied voxels of each class that occurs, over all keyframes.")
    seconds: float = Field(description="Wall-clock time of this run, seconds.")
    num_bytes: int = Field(description="Size of the world, bytes.")
    is_skipped: bool = Field(description="The world had been finished before; nothing was done.")
