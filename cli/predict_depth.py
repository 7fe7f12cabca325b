"""Depth for networks that read it, where moments to predict come from raw images: the LiDAR's, or a user's maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from pipelines.camera_frames import PhotoReport
from pipelines.depth_maps import map_paths
from pipelines.files import sha256_of
from pipelines.input_depth import photo_depth, photo_map_paths, record_depth
from pipelines.shard_file import dataset_info
from protoocc.data.decode import decode_depths
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import SampleRecord
from schemas.rig import Rig

_OR_WITHOUT: Final = "or use a network that needs none (a VoxFormer with model.proposals=all)"

Depth = Float32[np.ndarray, "V H W"]


class RecordDepth:
    """Depth of keyframes from their LiDAR sweeps or from maps: what shards of the same keyframes hold."""

    def __init__(self, dataset: DatasetSpec, maps: Path | None) -> None:
        """Asks whether there is any.

        Raises:
            ConfigError: neither maps nor a LiDAR.
        """
        if maps is None and dataset.lidar is None:
            raise ConfigError(
                f"the network reads depth and '{dataset.name}' has none: it has `lidar: null` in datasets.yaml. Give "
                f"depth maps of the camera files with --depth-maps DIR (docs/predict.md), {_OR_WITHOUT}"
            )
        self._dataset, self._maps, self._info = dataset, maps, dataset_info(dataset)

    def read(self, record: SampleRecord) -> Depth:
        """Depth of the network's images of a keyframe, metres; 0 where there is none.

        Raises:
            DataError: a map, the sweep or its point labels are missing or damaged.
        """
        members = record_depth(self._dataset, record, self._maps)
        depth_m: Depth = decode_depths(f"sample {record.token}", members, self._info)["input_depth_m"]
        return depth_m

    def fingerprint(self, records: Iterable[SampleRecord]) -> str:
        """Says where depth comes from; changes with the contents of maps.

        Raises:
            DataError: a keyframe lacks a map.
        """
        if self._maps is None:
            return "depth of the LiDAR"
        maps = self._maps
        return f"depth {sha256_of(path for record in records for path in map_paths(maps, self._dataset, record))}"


class PhotoDepth:
    """Depth maps of a user's photos, one folder for each folder of photos."""

    def __init__(self, calibration: Path, rig: Rig, folders: Sequence[Path], maps: Sequence[Path] | None) -> None:
        """Asks whether each moment has its maps.

        Raises:
            ConfigError: there are none, or not as many as folders of photos.
            DataError: a photo has no map.
        """
        if maps is None:
            raise ConfigError(
                "the network reads depth and photos have none. Give a depth map of each photo, .npy or 16-bit .png, "
                f"with --depth-maps DIR (docs/predict.md), {_OR_WITHOUT}"
            )
        if len(maps) != len(folders):
            raise ConfigError(
                f"--depth-maps was given {len(maps)} times for {len(folders)} folders of photos (--images): give one "
                "for each, in the same order"
            )
        self._calibration, self._rig = calibration, rig
        self._of = dict(zip(folders, maps, strict=True))
        self.fingerprint = f"depth {sha256_of(path for one in maps for path in photo_map_paths(calibration, rig, one))}"

    def read(self, folder: Path, images: Mapping[str, PhotoReport]) -> Depth:
        """Depth of the network's images of the moment whose photos lie in ``folder``, metres; 0 where there is none.

        Raises:
            DataError: a map is missing, damaged or of another size than its photo.
        """
        return photo_depth(self._calibration, self._rig, self._of[folder], images)

    def describe(self, depth_m: Depth) -> list[str]:
        """One line for each photo, which shows at once where maps are not in metres."""
        lines = []
        for name, one in zip(self._rig.cameras, depth_m, strict=True):
            known = one[one > 0]
            reach = f", {known.min():.1f} to {known.max():.1f} m" if len(known) else ""
            lines.append(f"{name}: depth of {100 * len(known) / one.size:.1f} % of the pixels{reach}")
        return lines
