"""Raw files that labels come from, and the options of the command line that choose a source."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pipelines.occupancy.config import LIDAR_PRESETS, PRESET_OF_FORMAT, ImageLabels, LidarConfig, Occ3dConfig
from pipelines.occupancy.label_sets import ImportConfig
from pipelines.occupancy.refine import class_folder
from pipelines.occupancy.voxel_files import VoxelsConfig
from schemas.datasets import DatasetSpec, Format
from schemas.names import folder_of
from schemas.records import SampleRecord
from schemas.settings import changed_fields, set_options

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
        options += set_options(source, without=["labels"])
    elif isinstance(source, LidarConfig):
        options += _lidar_options(source, PRESET_OF_FORMAT[name])
    return shlex.join(options)


def _lidar_options(config: LidarConfig, usual: str) -> list[str]:
    """The preset that differs least, and what differs from it; ``usual`` is the one that needs no option."""
    lost = {name: len(changed_fields(config, preset)) for name, preset in LIDAR_PRESETS.items()}
    nearest = min(lost, key=lambda name: (lost[name], name != usual))
    preset = LIDAR_PRESETS[nearest]
    options = [] if nearest == usual else ["--thresholds", nearest]
    if config.image_labels is not None:
        images = ImageLabels(folder=config.image_labels.folder)
        options += ["--image-labels", images.folder]
        preset = preset.model_copy(update={"image_labels": images})
    return options + set_options(config, preset)
