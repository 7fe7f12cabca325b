"""Raw files that labels come from, and the options of the command line that choose a source."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pipelines.occupancy.config import LIDAR_PRESETS, PRESET_OF_FORMAT, LidarConfig, Occ3dConfig
from pipelines.occupancy.label_sets import ImportConfig
from pipelines.occupancy.refine import class_folder
from pipelines.occupancy.voxel_files import VoxelsConfig
from schemas.datasets import DatasetSpec, Format
from schemas.names import folder_of
from schemas.records import SampleRecord

SOURCE_OF_FORMAT: Final[dict[Format, Occ3dConfig | VoxelsConfig]] = {
    "nuscenes": Occ3dConfig(),
    "semantickitti": VoxelsConfig(),
}
"""Where labels of each format come from, unless another source is asked for; the exact ones of a generated world."""


def files_of_scene(dataset: DatasetSpec, config: LidarConfig, records: Sequence[SampleRecord]) -> Iterator[Path]:
    """Sweeps, point labels and class images that the labels of a scene rest on.

    Args:
        dataset: root and cameras.
        config: whether class images are read.
        records: all keyframes of the scene.
    """
    for record in records:
        for sweep in (record.lidar, *record.sweeps):
            if sweep is not None:
                yield dataset.root / sweep.path
                if sweep.labels_path is not None:
                    yield dataset.root / sweep.labels_path
        if config.image_labels is not None:
            folder = class_folder(dataset, config.image_labels) / folder_of(record.scene) / record.token
            yield from (folder / f"{channel}.png" for channel in dataset.cameras)


def source_options(source: Occ3dConfig | LidarConfig | ImportConfig | VoxelsConfig, name: Format) -> str:
    """Options of `protoocc occupancy` that give this source on raw data of a format."""
    options = ["--source", source.kind]
    if isinstance(source, ImportConfig):
        options += ["--labels", str(source.labels), *(["--resample"] if source.resample else [])]
    elif isinstance(source, VoxelsConfig):
        options += [] if source.labels is None else ["--labels", str(source.labels)]
        options += [] if source.repair else ["--set", "repair=false"]
    elif isinstance(source, LidarConfig):
        options += _lidar_options(source, PRESET_OF_FORMAT[name])
    return shlex.join(options)


def _lidar_options(config: LidarConfig, usual: str) -> list[str]:
    """The preset that differs least, and what differs from it; ``usual`` is the one that needs no option."""
    plain = config.model_copy(update={"image_labels": None}).model_dump(mode="json")
    presets = {name: preset.model_dump(mode="json") for name, preset in LIDAR_PRESETS.items()}
    changed = {
        name: [key for key in plain if plain[key] != preset.get(key, LidarConfig.model_fields[key].default)]
        for name, preset in presets.items()
    }
    lost = {name: len(changed[name]) + len(preset.keys() - plain.keys()) for name, preset in presets.items()}
    nearest = min(presets, key=lambda name: (lost[name], name != usual))
    options = [] if nearest == usual else ["--thresholds", nearest]
    if config.image_labels is not None:
        options += ["--image-labels", config.image_labels.folder]
    for key in changed[nearest]:
        options += ["--set", f"{key}={json.dumps(plain[key])}"]
    return options
