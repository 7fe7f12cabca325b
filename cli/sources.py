"""From command line words to the settings of label sources and mask generators, and the label shares to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.progress import console
from schemas.errors import ConfigError
from schemas.settings import override

if TYPE_CHECKING:
    from pipelines.masks import SamConfig, SeedsConfig
    from pipelines.occupancy import OccupancyConfig
    from pipelines.stage import StageSummary


def occupancy_source(
    source: str,
    thresholds: str,
    *,
    labels: Path | None = None,
    resample: bool = False,
    image_labels: str | None = None,
    changes: Sequence[str] = (),
) -> OccupancyConfig:
    """Settings of `--source`, `--thresholds`, `--labels`, `--resample`, `--image-labels` and `--set`.

    Raises:
        ConfigError: an unknown word or setting, or an option that belongs to another source.
    """
    from pipelines.occupancy import LIDAR_PRESETS, ImageLabels, ImportConfig, Occ3dConfig

    for option, given in (("--image-labels", image_labels), ("--set", changes)):
        if given and source != "lidar":
            raise ConfigError(f"{option} belongs to --source lidar, not {source}")
    if source == "surroundocc" or source == "openoccupancy":
        if labels is None:
            raise ConfigError(f"--source {source} needs --labels DIR, the folder of its files")
        return ImportConfig(kind=source, labels=labels.absolute(), resample=resample)
    if labels is not None or resample:
        raise ConfigError("--labels and --resample belong to --source surroundocc and openoccupancy")
    if source == "occ3d" or source == "openocc-v2" or source == "occ3d-waymo":
        return Occ3dConfig(kind=source)
    if source != "lidar":
        raise ConfigError(
            f"--source {source}: expected occ3d, openocc-v2, occ3d-waymo, lidar, surroundocc or openoccupancy"
        )
    if thresholds not in LIDAR_PRESETS:
        raise ConfigError(f"--thresholds {thresholds}: expected one of {', '.join(LIDAR_PRESETS)}")
    images = None if image_labels is None else ImageLabels(folder=image_labels)
    return override(LIDAR_PRESETS[thresholds].model_copy(update={"image_labels": images}), changes)


def mask_generator(
    generator: str, *, segments: int, checkpoint: Path | None, model_type: str, device: str
) -> SeedsConfig | SamConfig:
    """Settings of `--generator` and its options.

    Raises:
        ConfigError: an unknown word or number, or SAM without a checkpoint.
    """
    from pydantic import ValidationError

    from pipelines.masks import SamConfig, SeedsConfig
    from schemas.settings import describe_validation

    if generator not in ("seeds", "sam"):
        raise ConfigError(f"--generator {generator}: expected seeds or sam")
    try:
        if generator == "seeds":
            return SeedsConfig.model_validate({"segments": segments})
        return SamConfig.model_validate({"checkpoint": checkpoint, "model_type": model_type, "device": device})
    except ValidationError as error:
        raise ConfigError(describe_validation(f"--generator {generator}", error)) from error


def print_label_shares(summary: StageSummary) -> None:
    """Which source labelled what share of the occupied voxels, from the counts `voxels_<source>`."""
    counts = {key.removeprefix("voxels_"): count for key, count in summary.counts.items() if key.startswith("voxels_")}
    total = counts.pop("occupied", 0.0)
    if total:
        text = ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in sorted(counts.items()))
        console.print(f"  occupied voxels by source of their label: {text}", highlight=False, soft_wrap=True)
