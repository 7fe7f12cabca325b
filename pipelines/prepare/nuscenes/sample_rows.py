"""From table rows to a `SampleRecord`: sensors, sweeps and boxes of one keyframe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipelines.prepare.nuscenes.raw_tables import Row, dangling_message
from pipelines.prepare.source import Keyframe, vehicle_pose
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import BoxRecord, CameraRecord, LidarRecord, RigidPose, SampleRecord

if TYPE_CHECKING:
    from nuscenes import NuScenes

POINT_COLUMNS = 5
"""float32 x, y, z, intensity, ring."""
POINT_LABELS = ("panoptic", "lidarseg")
"""Optional tables of point labels; where several label the same points, the last one counts."""


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
        rows = [row for table in POINT_LABELS for row in getattr(nusc, table, [])]
        self.labels = {row["sample_data_token"]: row["filename"] for row in rows}
        self.has_sweeps = dataset.lidar is not None and (dataset.root / "sweeps" / dataset.lidar).is_dir()
        self._scenes = {str(row["name"]): row for row in nusc.scene}

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
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"])
            raise DataError(
                f"sample {keyframe.token}: a table row in {self.folder} holds a bad {field} = {problem['input']!r}: "
                f"{problem['msg']}. Correct the row."
            ) from error

    def _read(self, keyframe: Keyframe) -> SampleRecord:
        sample = self.nusc.get("sample", keyframe.token)
        channel = self.dataset.lidar
        row = None if channel is None else self._sensor_row(sample, channel, "lidar")
        lidar = None if row is None else self._lidar(row)
        cameras = {name: self._camera(self._sensor_row(sample, name, "cameras")) for name in self.dataset.cameras}
        return SampleRecord(
            token=keyframe.token,
            scene=keyframe.scene,
            frame=keyframe.frame,
            timestamp_us=sample["timestamp"],
            previous=None,
            next=None,
            cameras=cameras,
            global_from_vehicle=vehicle_pose(lidar, cameras, sample["timestamp"]),
            lidar=lidar,
            sweeps=self._sweeps(row) if row is not None and self.has_sweeps else (),
            boxes=tuple(self._box(token) for token in sorted(sample["anns"])),
            map_window=None,
            splits=keyframe.splits,
        )

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
        row: Row = self.nusc.get("sample_data", sample["data"][channel])
        return row

    def _poses(self, row: Row) -> tuple[Row, RigidPose, RigidPose]:
        mounting = self._follow("sample_data", row, "calibrated_sensor_token", "calibrated_sensor")
        vehicle = self._follow("sample_data", row, "ego_pose_token", "ego_pose")
        return mounting, self._pose("calibrated_sensor", mounting), self._pose("ego_pose", vehicle)

    def _pose(self, table: str, row: Row) -> RigidPose:
        try:
            return RigidPose(rotation_wxyz=row["rotation"], translation_m=row["translation"])
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["type"] != "value_error":
                raise
            reason = problem["ctx"]["error"]
            raise DataError(f"{self.folder / (table + '.json')}: row '{row['token']}': {reason}") from error

    def _camera(self, row: Row) -> CameraRecord:
        mounting, ego_from_camera, global_from_ego = self._poses(row)
        intrinsics = mounting["camera_intrinsic"]
        if len(intrinsics) != 3 or any(len(line) != 3 for line in intrinsics):
            raise DataError(
                f"{self.folder / 'calibrated_sensor.json'}: row '{mounting['token']}' of {row['channel']} has "
                f"camera_intrinsic {intrinsics}, expected a 3x3 matrix in pixels. Correct the row."
            )
        return CameraRecord(
            token=row["token"],
            path=row["filename"],
            timestamp_us=row["timestamp"],
            width=row["width"],
            height=row["height"],
            intrinsics=intrinsics,
            ego_from_camera=ego_from_camera,
            global_from_ego=global_from_ego,
        )

    def _lidar(self, row: Row) -> LidarRecord:
        _, ego_from_lidar, global_from_ego = self._poses(row)
        return LidarRecord(
            token=row["token"],
            path=row["filename"],
            timestamp_us=row["timestamp"],
            ego_from_lidar=ego_from_lidar,
            global_from_ego=global_from_ego,
            point_columns=self.dataset.point_columns or POINT_COLUMNS,
            labels_path=self.labels.get(row["token"]),
        )

    def _sweeps(self, keyframe: Row) -> tuple[LidarRecord, ...]:
        backwards: list[LidarRecord] = []
        row = keyframe
        while row["prev"]:
            row = self._follow("sample_data", row, "prev", "sample_data")
            if row["is_key_frame"]:
                break
            backwards.append(self._lidar(row))
        return tuple(reversed(backwards))

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
        width, length, height = row["size"]
        if not min(width, length, height) > 0:
            raise DataError(
                f"{self.folder / 'sample_annotation.json'}: annotation '{token}' has size {row['size']}, expected "
                "width, length and height above 0 m. Correct the row, or use --on-error drop."
            )
        return BoxRecord(
            token=token,
            instance=row["instance_token"],
            category=category,
            label=label,
            global_from_box=self._pose("sample_annotation", row),
            size_lwh_m=(length, width, height),
            num_lidar_pts=row["num_lidar_pts"],
        )

    def map_file(self, scene: str) -> Path | None:
        """Mask of a scene's map; None where there is none.

        Raises:
            DataError: the scene's row names a log that does not exist.
        """
        log = self._follow("scene", self._scenes[scene], "log_token", "log")
        name: str = self.nusc.get("map", log["map_token"])["filename"]
        return self.dataset.root / name if name else None
