"""From table rows to a `SampleRecord`: sensors, sweeps and boxes of one keyframe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.prepare.nuscenes.file_names import relative_name
from pipelines.prepare.nuscenes.raw_tables import OPTIONAL_TABLES, Row, dangling_message, map_file
from pipelines.prepare.source import Keyframe, vehicle_pose
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.outside import shorten
from schemas.records import BoxRecord, CameraRecord, LidarRecord, RigidPose, SampleRecord

if TYPE_CHECKING:
    from nuscenes import NuScenes

POINT_COLUMNS = 5
"""float32 x, y, z, intensity, ring."""
LARGEST_OFFSET_S = 5.0
"""Sensors of a sample are so close to its timestamp."""
Model = TypeVar("Model", bound=BaseModel)
_Place = tuple[str, Row]
"""Name of a table and one of its rows."""

logger = logging.getLogger(__name__)


class SampleReader:
    """Reads keyframes from loaded tables.

    Args:
        nusc: tables, loaded by the devkit.
        dataset: the entry of `datasets.yaml`.
    """

    def __init__(self, nusc: NuScenes, dataset: DatasetSpec) -> None:
        self.nusc = nusc
        self.dataset = dataset
        self.folder = dataset.root / dataset.version
        rows = [(table, row) for table in OPTIONAL_TABLES for row in getattr(nusc, table, [])]
        self.labels = {row["sample_data_token"]: (table, row) for table, row in rows}
        self._scenes = {row["name"]: row for row in nusc.scene}
        self._folders: dict[Path, bool] = {}
        self._twice = _channels_twice(nusc.sample_data)

    def read(self, keyframe: Keyframe) -> SampleRecord:
        """The record of one keyframe; `previous`, `next` and `map_window` are filled in when its scene is complete.

        Raises:
            DataError: a row points nowhere, lacks a field or holds a bad value; names table, row and sample.
        """
        try:
            return self._read(keyframe)
        except DataError as error:
            raise DataError(f"sample {keyframe.token}: {error}") from error
        except KeyError as error:
            raise DataError(
                f"sample {keyframe.token}: a table row in {self.folder} lacks the field {error}. "
                "Unpack the metadata archive again."
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"sample {keyframe.token}: a table row in {self.folder} holds a value of another kind than expected "
                f"({error}). Correct the row, or leave the sample out with --on-error drop."
            ) from error

    def _read(self, keyframe: Keyframe) -> SampleRecord:
        sample = self.nusc.get("sample", keyframe.token)
        channel = self.dataset.lidar
        row = None if channel is None else self._sensor_row(sample, channel, "lidar")
        lidar = None if row is None else self._lidar(row)
        cameras = {name: self._camera(self._sensor_row(sample, name, "cameras")) for name in self.dataset.cameras}
        values = {
            "token": keyframe.token,
            "scene": keyframe.scene,
            "frame": keyframe.frame,
            "timestamp_us": sample["timestamp"],
            "previous": None,
            "next": None,
            "cameras": cameras,
            "global_from_vehicle": vehicle_pose(lidar, cameras, sample["timestamp"]),
            "lidar": lidar,
            "sweeps": () if row is None else self._sweeps(row),
            "boxes": tuple(self._box(token) for token in sorted(sample["anns"])),
            "map_window": None,
            "splits": keyframe.splits,
        }
        return self._make(SampleRecord, ("sample", sample), values)

    def _follow(self, table: str, row: Row, field: str, target: str) -> Row:
        try:
            found: Row = self.nusc.get(target, row[field])
        except KeyError:
            if field not in row:
                raise
            raise DataError(dangling_message(self.folder, (table, row["token"], field), (target, row[field]))) from None
        return found

    def _sensor_row(self, sample: Row, channel: str, field: str) -> Row:
        if channel not in sample["data"]:
            raise DataError(
                f"{self.folder / 'sample_data.json'} has no keyframe of {channel} for this sample; "
                f"channels there: {', '.join(sorted(sample['data'])) or 'none'}. Correct `{field}` or restore the row."
            )
        if (sample["token"], channel) in self._twice:
            raise DataError(
                f"{self.folder / 'sample_data.json'} has more than one keyframe of {channel} for this sample. Leave "
                "`is_key_frame` at the one that belongs to it."
            )
        row: Row = self.nusc.get("sample_data", sample["data"][channel])
        offset_s = (row["timestamp"] - sample["timestamp"]) / 1e6
        if not abs(offset_s) <= LARGEST_OFFSET_S:
            raise DataError(
                f"{self.folder / 'sample_data.json'}: row '{row['token']}' of {channel} has timestamp "
                f"{row['timestamp']}, {offset_s:g} s from its sample's {sample['timestamp']}; up to "
                f"{LARGEST_OFFSET_S:g} s are possible. Correct the row, or leave the sample out with --on-error drop."
            )
        return row

    def _poses(self, row: Row) -> tuple[Row, RigidPose, RigidPose]:
        mounting = self._follow("sample_data", row, "calibrated_sensor_token", "calibrated_sensor")
        vehicle = self._follow("sample_data", row, "ego_pose_token", "ego_pose")
        return mounting, self._pose("calibrated_sensor", mounting), self._pose("ego_pose", vehicle)

    def _pose(self, table: str, row: Row) -> RigidPose:
        values = {"rotation_wxyz": row["rotation"], "translation_m": row["translation"]}
        return self._make(RigidPose, (table, row), values)

    def _make(
        self, model: type[Model], source: _Place, values: Row, elsewhere: Mapping[str, _Place] | None = None
    ) -> Model:
        """A part of a record.

        Args:
            model: of the part.
            source: table and row that the values come from, for messages.
            values: of the part's fields.
            elsewhere: fields whose values come from another row.

        Raises:
            DataError: a value is none that the field takes; names table, row, value and expectation.
        """
        try:
            return model(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            table, row = (elsewhere or {}).get(str(problem["loc"][0]) if problem["loc"] else "", source)
            field = ".".join(str(part) for part in problem["loc"])
            meaning = model.model_fields[str(problem["loc"][0])].description if problem["loc"] else None
            raise DataError(
                f"{self.folder / (table + '.json')}: row '{row['token']}' holds a bad {field} = "
                f"{shorten(problem['input'])}: {problem['msg']}. {f'Expected: {meaning} ' if meaning else ''}"
                "Correct the row, or leave such samples out with --on-error drop."
            ) from error

    def _file(self, table: str, row: Row) -> str:
        try:
            return relative_name(self.dataset.root, row["filename"])
        except ValueError as error:
            raise DataError(f"{self.folder / (table + '.json')}: row '{row['token']}': filename {error}.") from error

    def _camera(self, row: Row) -> CameraRecord:
        mounting, ego_from_camera, global_from_ego = self._poses(row)
        values = {
            "token": row["token"],
            "path": self._file("sample_data", row),
            "timestamp_us": row["timestamp"],
            "width": row["width"],
            "height": row["height"],
            "intrinsics": mounting["camera_intrinsic"],
            "ego_from_camera": ego_from_camera,
            "global_from_ego": global_from_ego,
        }
        source = ("calibrated_sensor", mounting)
        elsewhere = {"intrinsics": source, "ego_from_camera": source}
        return self._make(CameraRecord, ("sample_data", row), values, elsewhere)

    def _lidar(self, row: Row) -> LidarRecord:
        mounting, ego_from_lidar, global_from_ego = self._poses(row)
        labels = self.labels.get(row["token"])
        values = {
            "token": row["token"],
            "path": self._file("sample_data", row),
            "timestamp_us": row["timestamp"],
            "ego_from_lidar": ego_from_lidar,
            "global_from_ego": global_from_ego,
            "point_columns": self.dataset.point_columns or POINT_COLUMNS,
            "labels_path": None if labels is None else self._file(*labels),
        }
        elsewhere = {"ego_from_lidar": ("calibrated_sensor", mounting)}
        return self._make(LidarRecord, ("sample_data", row), values, elsewhere)

    def _sweeps(self, keyframe: Row) -> tuple[LidarRecord, ...]:
        """Sweeps since the keyframe before; those whose folder is not there at all are left out."""
        backwards: list[LidarRecord] = []
        row, seen = keyframe, {keyframe["token"]}
        while row["prev"]:
            row = self._follow("sample_data", row, "prev", "sample_data")
            if row["token"] in seen:
                raise DataError(
                    f"{self.folder / 'sample_data.json'}: following `prev` from row '{keyframe['token']}' comes back "
                    f"to row '{row['token']}', so it has no end. Correct its `prev`."
                )
            seen.add(row["token"])
            if row["is_key_frame"]:
                break
            sweep = self._lidar(row)
            if self._has_folder(self.dataset.root / sweep.path):
                backwards.append(sweep)
        return tuple(reversed(backwards))

    def _has_folder(self, path: Path) -> bool:
        """Whether the folder of a sweep is there; the first time that it is not is logged."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = folder.is_dir()
            if not self._folders[folder]:
                logger.warning("%s is not there: records get no sweeps from it", folder)
        return self._folders[folder]

    def _box(self, token: str) -> BoxRecord:
        row = self.nusc.get("sample_annotation", token)
        category = row["category_name"]
        try:
            label = self.dataset.class_of(category)
        except KeyError:
            raise DataError(
                f"{self.folder / 'sample_annotation.json'}: annotation '{token}' has category '{category}', which "
                f"has no class. Add `{category}: CLASS` to `categories:` of '{self.dataset.name}' in datasets.yaml; "
                f"classes: {', '.join(self.dataset.classes.occupied)}."
            ) from None
        size = row["size"]
        values = {
            "token": token,
            "instance": row["instance_token"],
            "category": category,
            "label": label,
            "global_from_box": self._pose("sample_annotation", row),
            "size_lwh_m": [size[1], size[0], size[2]] if isinstance(size, list) and len(size) == 3 else size,
            "num_lidar_pts": row["num_lidar_pts"],
        }
        return self._make(BoxRecord, ("sample_annotation", row), values)

    def map_file(self, scene: str) -> Path | None:
        """Mask of a scene's map; None where there is none.

        Raises:
            DataError: the scene's row names a log that does not exist.
        """
        log = self._follow("scene", self._scenes[scene], "log_token", "log")
        return map_file(self.dataset.root, self.nusc.get("map", log["map_token"]))


def _channels_twice(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Sample tokens and channels that have more than one keyframe."""
    seen: set[tuple[str, str]] = set()
    twice: set[tuple[str, str]] = set()
    for row in rows:
        if row["is_key_frame"]:
            place = (row["sample_token"], row["channel"])
            (twice if place in seen else seen).add(place)
    return twice
