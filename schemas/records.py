"""Records: what `prepare` writes and every later stage reads, one JSON line per keyframe, with an index of the lines.

Plans need the index alone; a task reads the lines of its own keyframes. So neither holds more records than its share.

Paths are relative to the dataset root, poses are quaternion + translation as in the raw tables and become 4x4 matrices
through the properties. No pickle, nothing machine-specific: records of one dataset are the same bytes everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, field_validator

from schemas.errors import DataError
from schemas.geometry import Pose, invert_rigid, rigid_transform
from schemas.outside import Source, check_intrinsics, check_rigid, parse_json_value, read_lines
from schemas.outside.limits import CAMERA_PIXELS, PLANET_M, RECORD_BYTES, VEHICLE_M
from schemas.settings import Frozen, describe_validation

RECORDS_FILE: Final = "samples.jsonl"
INDEX_FILE: Final = "index.jsonl"
PREPARE_AGAIN: Final = "Run `protoocc prepare --overwrite`."


class RigidPose(Frozen):
    """A rigid pose as stored: the matrix is `dst_from_src` of the field's name."""

    rotation_wxyz: tuple[float, float, float, float] = Field(description="Unit quaternion (w, x, y, z).")
    translation_m: tuple[float, float, float] = Field(description="(x, y, z) metres.")

    @field_validator("rotation_wxyz")
    @classmethod
    def _has_length(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not 1e-9 <= math.hypot(*value) < math.inf:
            raise ValueError(f"rotation {value} is no quaternion (w, x, y, z)")
        return value

    @property
    def matrix(self) -> Pose:
        """4x4 float64 ``dst_from_src``."""
        return rigid_transform(self.rotation_wxyz, self.translation_m)


class CameraRecord(Frozen):
    """One camera image of a keyframe, at the camera's own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Image file, relative to the dataset root.")
    timestamp_us: int = Field(description="Exposure time, microseconds.")
    width: int = Field(description="Width of the file's image, pixels.")
    height: int = Field(description="Height of the file's image, pixels.")
    intrinsics: tuple[tuple[float, float, float], ...] = Field(
        description="3x3 camera matrix of the file's image, pixels."
    )
    ego_from_camera: RigidPose = Field(description="Mounting of the camera.")
    global_from_ego: RigidPose = Field(description="Vehicle pose at the camera's time, not the LiDAR's.")


class LidarRecord(Frozen):
    """One LiDAR sweep at its own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Point file: float32 in little-endian order, relative to the dataset root.")
    point_columns: int = Field(5, ge=3, description="float32 values of each point in the file; x, y, z come first.")
    timestamp_us: int = Field(description="Time of the sweep, microseconds.")
    ego_from_lidar: RigidPose = Field(description="Mounting of the LiDAR.")
    global_from_ego: RigidPose = Field(description="Vehicle pose at the sweep's time.")
    labels_path: str | None = Field(
        None, description="Point labels (lidarseg .bin or panoptic .npz), if there are any."
    )

    @property
    def global_from_lidar(self) -> Pose:
        """4x4 pose of the sensor at the sweep's time."""
        return self.global_from_ego.matrix @ self.ego_from_lidar.matrix


class BoxRecord(Frozen):
    """One annotated box at the LiDAR keyframe's time."""

    token: str = Field(description="sample_annotation token.")
    instance: str = Field(description="Instance token: the same object in all keyframes of the scene.")
    category: str = Field(description="nuScenes category name.")
    label: int = Field(ge=0, le=254, description="Index in the dataset's class table.")
    global_from_box: RigidPose = Field(
        description="Box frame: origin in the middle, x along the length, y width, z up."
    )
    size_lwh_m: tuple[float, float, float] = Field(description="Length, width, height, metres.")
    num_lidar_pts: int = Field(description="LiDAR points inside, as the table says.")


class MapWindow(Frozen):
    """The driveable area around a scene, cut out of its map by `prepare`; all keyframes of the scene share it."""

    path: str = Field(description="PNG, white where one may drive, first row in the north; below the records folder.")
    corner_m: tuple[float, float] = Field(description="Lower left corner of the image: (x, y), global frame, metres.")
    pixel_m: float = Field(gt=0, description="Edge of a pixel, metres.")


class SampleRecord(Frozen):
    """One keyframe: sensors, boxes, neighbours in time."""

    token: str = Field(description="sample token.")
    scene: str = Field(description="Scene name.")
    frame: int = Field(ge=0, description="Number of the keyframe within its scene.")
    timestamp_us: int = Field(description="Time of the keyframe, microseconds.")
    previous: str | None = Field(description="Token of the keyframe before, None at the start of a scene.")
    next: str | None = Field(description="Token of the keyframe after, None at the end of a scene.")
    cameras: dict[str, CameraRecord] = Field(description="By channel name, in the dataset's camera order.")
    global_from_vehicle: RigidPose = Field(
        description="Vehicle pose that defines the ego frame: at the time of the LiDAR keyframe or, without a LiDAR, "
        "of the camera whose image is nearest to `timestamp_us`."
    )
    lidar: LidarRecord | None = Field(description="LiDAR at the keyframe; None in logs of cameras alone.")
    sweeps: tuple[LidarRecord, ...] = Field(
        description="LiDAR sweeps after the previous keyframe, in order of time; none without a LiDAR."
    )
    boxes: tuple[BoxRecord, ...] = Field(description="Annotated boxes.")
    map_window: MapWindow | None = Field(description="Driveable area around the scene; None without a map.")
    splits: tuple[str, ...] = Field(description="Names of the splits that hold this keyframe.")

    @property
    def global_from_ego(self) -> Pose:
        """4x4 pose of the ego frame: the vehicle at the time that `global_from_vehicle` says."""
        return self.global_from_vehicle.matrix

    @property
    def keyframe_sweep(self) -> LidarRecord:
        """LiDAR sweep at the keyframe, for steps that need one.

        Raises:
            DataError: the log has cameras alone.
        """
        if self.lidar is None:
            raise DataError(f"sample {self.token} has no LiDAR sweep, and this step needs one.")
        return self.lidar

    def camera_from_ego(self, channel: str) -> Pose:
        """4x4 chain ego -> global -> vehicle at the camera's own time -> camera: time offsets are inside."""
        return self.camera_from_global(channel) @ self.global_from_ego

    def camera_from_global(self, channel: str) -> Pose:
        """4x4 chain global -> vehicle at the camera's own time -> camera."""
        camera = self.cameras[channel]
        return invert_rigid(camera.ego_from_camera.matrix) @ invert_rigid(camera.global_from_ego.matrix)


class RecordEntry(NamedTuple):
    """One line of the index: where a record stands and what plans need of it."""

    row: int
    """Number of the record: its position in every store."""
    token: str
    scene: str
    frame: int
    splits: tuple[str, ...]
    """Names of the splits that hold it; empty for a neighbour in time that no stage labels."""
    start: int
    """First byte of the line in `samples.jsonl`."""
    stop: int
    """Byte after the line, its newline included."""


def index_lines(records: Iterable[tuple[SampleRecord, bytes]]) -> Iterator[bytes]:
    """Lines of the index for records and their own lines, in order."""
    start = 0
    for record, line in records:
        stop = start + len(line)
        yield _index_line(record.token, record.scene, record.frame, record.splits, (start, stop))
        start = stop


def shift_index(lines: Iterable[bytes], offset: int) -> Iterator[bytes]:
    """The same lines of an index for records that stand ``offset`` bytes further down in the file."""
    for line in lines:
        token, scene, frame, splits, start, stop = json.loads(line)
        yield _index_line(token, scene, frame, splits, (start + offset, stop + offset))


def _index_line(token: str, scene: str, frame: int, splits: Sequence[str], place: tuple[int, int]) -> bytes:
    return json.dumps([token, scene, frame, list(splits), *place]).encode() + b"\n"


def read_index(folder: Path) -> list[RecordEntry]:
    """Index of a prepared dataset, ordered by scene name, then time.

    Args:
        folder: the `records` folder.

    Raises:
        DataError: `prepare` has not finished there, a line is broken or beyond its limits, or a sample is listed twice.
    """
    path = folder / INDEX_FILE
    if not (folder / "manifest.json").is_file() or not path.is_file():
        raise DataError(f"{folder} holds no finished records. Run `protoocc prepare` first.")
    entries: list[RecordEntry] = []
    for row, line in enumerate(read_lines(Source(str(path), PREPARE_AGAIN), path, RECORD_BYTES)):
        source = Source(f"{path}, line {row + 1}", PREPARE_AGAIN)
        entries.append(_entry(source, row, parse_json_value(source, line), entries[-1].stop if entries else 0))
    tokens = {entry.token for entry in entries}
    if len(tokens) < len(entries):
        raise DataError(f"{path} lists {len(entries)} samples, only {len(tokens)} different ones. {PREPARE_AGAIN}")
    return entries


def _entry(source: Source, row: int, values: Any, start: int) -> RecordEntry:
    """One line of the index; its record starts where the one before ends."""
    fits = isinstance(values, list) and [type(value) for value in values] == [str, str, int, list, int, int]
    if not fits or not all(isinstance(split, str) for split in values[3]):
        raise source.error("is no index entry: token, scene, frame, splits, start, stop")
    token, scene, frame, splits, first, stop = values
    if frame < 0 or first != start or not 0 < stop - start <= RECORD_BYTES:
        raise source.error(f"is no index entry: frame {frame}, bytes {first} to {stop}, the one before ends at {start}")
    return RecordEntry(row, token, scene, frame, tuple(splits), first, stop)


def read_records(folder: Path, entries: Sequence[RecordEntry]) -> list[SampleRecord]:
    """Records of some index entries, in their order.

    Args:
        folder: the `records` folder.
        entries: from `read_index`.

    Raises:
        DataError: the file is missing, or a line is broken, belongs to another sample or holds what no sensor has.
    """
    return list(each_record(folder, entries))


def each_record(folder: Path, entries: Iterable[RecordEntry]) -> Iterator[SampleRecord]:
    """`read_records` one by one, for work that needs no record beside another."""
    path = folder / RECORDS_FILE
    try:
        with path.open("rb") as file:
            for entry in entries:
                file.seek(entry.start)
                yield _parse(path, entry, file.read(entry.stop - entry.start))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {PREPARE_AGAIN}") from error


def _parse(path: Path, entry: RecordEntry, line: bytes) -> SampleRecord:
    source = Source(f"{path}, line {entry.row + 1} (bytes {entry.start} to {entry.stop})", PREPARE_AGAIN)
    try:
        record = SampleRecord.model_validate(parse_json_value(source, line, RECORD_BYTES))
    except ValidationError as error:
        raise DataError(f"{describe_validation(source.where, error)}\n{PREPARE_AGAIN}") from error
    if (record.token, record.scene, record.frame) != (entry.token, entry.scene, entry.frame):
        raise source.error(
            f"is sample {record.token}, {record.scene} {record.frame}, the index says {entry.token}, {entry.scene} "
            f"{entry.frame}"
        )
    _check_sensors(Source(f"{source.where}, sample {record.token}", PREPARE_AGAIN), record)
    return record


def _check_sensors(source: Source, record: SampleRecord) -> None:
    """Refuses poses, cameras and boxes that cannot be; see `schemas.outside.limits`."""
    lidars = record.sweeps if record.lidar is None else (record.lidar, *record.sweeps)
    cameras = record.cameras.values()
    mounts = [lidar.ego_from_lidar for lidar in lidars] + [camera.ego_from_camera for camera in cameras]
    places = [lidar.global_from_ego for lidar in lidars] + [camera.global_from_ego for camera in cameras]
    places += [box.global_from_box for box in record.boxes]
    _check_poses(source, "the mounting of a sensor", mounts, VEHICLE_M)
    _check_poses(source, "a pose of the vehicle or of a box", places, PLANET_M)
    for channel, camera in record.cameras.items():
        if len(camera.intrinsics) != 3 or not 0 < camera.width * camera.height <= CAMERA_PIXELS:
            raise source.error(f"{channel} has {camera.width} x {camera.height} pixels or no 3x3 camera matrix")
    if record.cameras:
        check_intrinsics(source, "a camera matrix", np.array([camera.intrinsics for camera in cameras], np.float64))
    for box in record.boxes:
        if not all(0 <= length <= VEHICLE_M for length in box.size_lwh_m):
            raise source.error(f"box {box.token} has size {box.size_lwh_m} m, 0 to {VEHICLE_M:g} m are possible")


def _check_poses(source: Source, name: str, poses: Sequence[RigidPose], reach_m: float) -> None:
    quaternions = np.array([pose.rotation_wxyz for pose in poses], np.float64).reshape(-1, 4)
    places_m = np.array([pose.translation_m for pose in poses], np.float64).reshape(-1, 3)
    check_rigid(source, name, quaternions, places_m, reach_m)
