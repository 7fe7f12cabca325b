"""nuScenes and everything in its layout, read through nuscenes-devkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from pipelines.files import names_fingerprint
from pipelines.prepare.nuscenes.keyframes import plan_keyframes
from pipelines.prepare.nuscenes.raw_tables import (
    load_devkit,
    maps_fingerprint,
    optional_tables,
    table_folder,
    tables_fingerprint,
)
from pipelines.prepare.nuscenes.sample_rows import SampleReader
from pipelines.prepare.sensor_files import check_files
from pipelines.prepare.source import FileCheck, Keyframe, MapImage
from schemas.datasets import DatasetSpec
from schemas.errors import read_errors
from schemas.records import SampleRecord

MAP_PIXEL_M = 0.1
"""nuScenes draws its map masks at ten pixels per metre."""


class NuScenesSource:
    """The tables of one version, loaded when the first record or map is asked for.

    Args:
        dataset: the entry of `datasets.yaml`.
    """

    def __init__(self, dataset: DatasetSpec) -> None:
        self._dataset = dataset

    def fingerprint(self) -> Mapping[str, str]:
        """SHA-256 of the tables, of the map masks that they name and of the names of the sweeps and point labels."""
        root, folder = self._dataset.root, table_folder(self._dataset)
        with read_errors(root):
            sweeps = "none" if self._dataset.lidar is None else names_fingerprint(root / "sweeps" / self._dataset.lidar)
            labels = [names_fingerprint(root / table / self._dataset.version) for table in optional_tables(folder)]
        return {
            "tables": tables_fingerprint(folder),
            "maps": maps_fingerprint(root, folder),
            "sweeps": sweeps,
            "point_labels": ", ".join(labels) or "none",
        }

    def raw_files(self) -> Sequence[Path]:
        """The tables, and the folder of the sweeps for the names in it."""
        root, lidar = self._dataset.root, self._dataset.lidar
        return [*sorted((root / self._dataset.version).glob("*.json")), *([root / "sweeps" / lidar] if lidar else [])]

    def keyframes(self) -> Sequence[Keyframe]:
        """Keyframes of the scenes that some split names, from two small tables."""
        return plan_keyframes(self._dataset, table_folder(self._dataset))

    def read(self, keyframe: Keyframe) -> SampleRecord:
        """Record of one keyframe, see `SampleReader.read`."""
        return self._reader.read(keyframe)

    def map_image(self, scene: str) -> MapImage | None:
        """Mask of the scene's map; None where the row of `map.json` has no file name or the file is missing."""
        path = self._reader.map_file(scene)
        return None if path is None else MapImage(path, MAP_PIXEL_M)

    def file_check(self) -> FileCheck:
        """Check of images, LiDAR files and point labels."""
        return partial(check_files, self._dataset.root)

    @cached_property
    def _reader(self) -> SampleReader:
        return SampleReader(load_devkit(self._dataset), self._dataset)
