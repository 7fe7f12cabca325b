"""From command line words to the settings of label sources and mask generators, and the label shares to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.given import refuse
from cli.options import expected
from cli.say import say
from schemas.errors import ConfigError
from schemas.settings import override

if TYPE_CHECKING:
    from pipelines.class_model import ClassModelConfig
    from pipelines.occupancy import OccupancyConfig
    from pipelines.occupancy.layouts import LayoutName
    from pipelines.occupancy.predictions import ListName
    from pipelines.stage import StageSummary
    from schemas.settings import Frozen

CLASSES: Final = "classes"
"""Generator of classes of pixels, which are no masks."""
SOURCES: Final = ("lidar", "occ3d", "openocc-v2", "occ3d-waymo", "surroundocc", "openoccupancy", "voxels")


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
    from pipelines.occupancy import LIDAR_PRESETS, ImageLabels, ImportConfig, Occ3dConfig, VoxelsConfig

    if source not in SOURCES:
        raise expected("--source", source, SOURCES)
    made, imported = source == "lidar", source in ("surroundocc", "openoccupancy", "voxels")
    refuse(("thresholds",), not made, f"it belongs to --source lidar, not {source}")
    if image_labels and not made:
        raise ConfigError(f"--image-labels belongs to --source lidar, not {source}")
    if changes and not made and source != "voxels":
        raise ConfigError(f"--set belongs to --source lidar and voxels, not {source}")
    if (labels is not None and not imported) or (resample and (not imported or source == "voxels")):
        raise ConfigError(
            "--labels and --resample belong to --source surroundocc and openoccupancy, --labels to voxels"
        )
    if source == "voxels":
        return override(VoxelsConfig(labels=None if labels is None else labels.absolute()), changes)
    if source == "surroundocc" or source == "openoccupancy":
        if labels is None:
            raise ConfigError(f"--source {source} needs --labels DIR, the folder of its files")
        return ImportConfig(kind=source, labels=labels.absolute(), resample=resample)
    if source == "occ3d" or source == "openocc-v2" or source == "occ3d-waymo":
        return Occ3dConfig(kind=source)
    if thresholds not in LIDAR_PRESETS:
        raise expected("--thresholds", thresholds, LIDAR_PRESETS)
    images = None if image_labels is None else ImageLabels(folder=image_labels)
    return override(LIDAR_PRESETS[thresholds].model_copy(update={"image_labels": images}), changes)


def mask_generator(
    generator: str,
    *,
    segments: int | None = None,
    checkpoint: Path | None = None,
    model_type: str | None = None,
    device: str | None = None,
    changes: Sequence[str] = (),
) -> Frozen:
    """Settings of `--generator`, its options and `--set`.

    Raises:
        ConfigError: an unknown word, setting or number, or an option that belongs to another generator.
    """
    from pydantic import ValidationError

    from pipelines.masks import GENERATORS
    from schemas.settings import describe_validation

    if generator not in GENERATORS:
        raise expected("--generator", generator, (*GENERATORS, CLASSES))
    kind = GENERATORS[generator].config
    options = {"segments": segments, "checkpoint": checkpoint, "model_type": model_type, "device": device}
    for name in options:
        refuse((name,), name not in kind.model_fields, f"it is no setting of --generator {generator}")
    values = {name: value for name, value in options.items() if value is not None and name in kind.model_fields}
    try:
        config = override(kind.model_validate(values), changes)
    except ValidationError as error:
        raise ConfigError(describe_validation(f"--generator {generator}", error)) from error
    chosen = getattr(config, "device", "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", chosen):
        raise expected("--device", chosen, ("cpu", "cuda", "one GPU such as cuda:0"))
    path: Path | None = getattr(config, "checkpoint", None)
    if path is None:
        return config
    return config.model_copy(update={"checkpoint": path.absolute()})  # workers may have another working folder


def class_model(model: Path | None, classes: Path | None, changes: Sequence[str]) -> ClassModelConfig:
    """Settings of `--generator classes` from `--model`, `--classes` and `--set`.

    Raises:
        ConfigError: no file, an unreadable list of classes, or an unknown setting.
    """
    from pipelines.class_model import ClassModelConfig

    if model is None:
        raise ConfigError("--generator classes needs --model FILE, a segmentation network in ONNX")
    names = None
    if classes is not None:
        try:
            names = tuple(line.strip() for line in classes.read_text().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--classes {classes}: expected a text file with a class a line ({error})") from error
    config: ClassModelConfig = override(ClassModelConfig(model=model.absolute(), classes=names), changes)
    return config


def print_label_shares(summary: StageSummary) -> None:
    """Which source labelled what share of the occupied voxels, from the counts `voxels_<source>`."""
    counts = {key.removeprefix("voxels_"): count for key, count in summary.counts.items() if key.startswith("voxels_")}
    total = counts.pop("occupied", 0.0)
    if total:
        text = ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in sorted(counts.items()))
        say(f"  occupied voxels by source of their label: {text}")


def print_releases(summary: StageSummary) -> None:
    """Which release imported voxel files are of, and what was done about the older one."""
    old, new = (int(summary.counts.get(f"keyframes_of_{release}", 0)) for release in ("v1_0", "v1_1"))
    if new:
        say(f"  {new} keyframes have voxels of SemanticKITTI's release v1.1")
    if old:
        say(
            f"  {old} keyframes have voxels of SemanticKITTI's release v1.0, which are one voxel too high (their .bin "
            "fits the scan only then): they are moved down unless --set repair=false keeps them. Published numbers "
            "rest on v1.1: download data_odometry_voxels.zip again to compare with them.",
            "yellow",
        )


def prediction_source(source: str | None) -> LayoutName | ListName | None:
    """`--source` of `eval`.

    Raises:
        ConfigError: an unknown word.
    """
    from pipelines.occupancy.layouts import LAYOUTS
    from pipelines.occupancy.predictions import LISTS

    for known in (*LAYOUTS, *LISTS):
        if source == known:
            return known
    if source is None:
        return None
    raise expected("--source", source, (*LAYOUTS, *LISTS))
