"""Records: what `prepare` writes and every later stage reads, one JSON line per keyframe, with an index of the lines.

Plans need the index alone; a task reads the lines of its own keyframes. So neither holds more records than its share.

Paths are relative to the dataset root, poses are quaternion + translation as in the raw tables and become 4x4 matrices
through the properties. No pickle, nothing machine-specific: records of one dataset are the same bytes everywhere.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import DataError, raise_machine_fault
from schemas.geometry import Pose, invert_rigid, rigid_transform
from schemas.outside import Source, check_nesting, parse_json_value, read_lines
from schemas.outside.limits import (
    CAMERA_PIXELS,
    CENTER_PX,
    FOCAL_PX,
    LATEST_US,
    PLANET_M,
    QUATERNION_ERROR,
    RECORD_BYTES,
    VEHICLE_M,
)
from schemas.settings import Frozen, describe_validation
from schemas.workfolder import MANIFEST

RECORDS_FILE: Final = "samples.jsonl"
INDEX_FILE: Final = "index.jsonl"
_TOKEN: Final = r"^[^/\\.\x00][^/\\\x00]{0,199}$"
"""Tokens become folders of label sets, so they hold no separators and start with no dot."""
PREPARE_AGAIN: Final = "Run `protoocc prepare --overwrite`."


_Place = Annotated[float, Field(ge=-PLANET_M, le=PLANET_M)]
_Length = Annotated[float, Field(gt=0, le=VEHICLE_M)]


class _Measured(Frozen):
    """Values that sensors and annotators gave: numbers are finite and within `schemas.outside.limits`."""

    model_config = ConfigDict(allow_inf_nan=False)


class RigidPose(_Measured):
    """A rigid pose as stored: the matrix is `dst_from_src` of the field's name."""

    rotation_wxyz: tuple[float, float, float, float] = Field(description="Unit quaternion (w, x, y, z).")
    translation_m: tuple[_Place, _Place, _Place] = Field(description="(x, y, z) metres, on a planet as large as this.")

    @field_validator("rotation_wxyz")
    @classmethod
    def _has_length(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not abs(math.hypot(*value) - 1) <= QUATERNION_ERROR:
            raise ValueError(f"no rotation: the quaternion (w, x, y, z) has length {math.hypot(*value):g} instead of 1")
        return value

    @property
    def matrix(self) -> Pose:
        """4x4 float64 ``dst_from_src``."""
        return rigid_transform(self.rotation_wxyz, self.translation_m)


def _check_mounting(pose: RigidPose) -> RigidPose:
    if max(map(abs, pose.translation_m)) > VEHICLE_M:
        raise ValueError(f"a sensor beyond {VEHICLE_M:g} m from its vehicle")
    return pose


class CameraRecord(_Measured):
    """One camera image of a keyframe, at the camera's own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Image file, relative to the dataset root.")
    timestamp_us: int = Field(ge=-LATEST_US, le=LATEST_US, description="Exposure time, microseconds.")
    width: int = Field(gt=0, description="Width of the file's image, pixels.")
    height: int = Field(gt=0, description="Height of the file's image, pixels.")
    intrinsics: tuple[tuple[float, float, float], ...] = Field(
        min_length=3, max_length=3, description="3x3 camera matrix of the file's image, pixels."
    )
    ego_from_camera: RigidPose = Field(description="Mounting of the camera.")
    global_from_ego: RigidPose = Field(description="Vehicle pose at the camera's time, not the LiDAR's.")

    @field_validator("intrinsics")
    @classmethod
    def _is_a_camera(cls, value: tuple[tuple[float, float, float], ...]) -> tuple[tuple[float, float, float], ...]:
        (focal_u, skew, center_u), (below, focal_v, center_v), last = value
        if not (FOCAL_PX[0] <= min(focal_u, focal_v) and max(focal_u, focal_v) <= FOCAL_PX[1]):
            raise ValueError(
                f"no camera matrix: focal lengths of {FOCAL_PX[0]:g} to {FOCAL_PX[1]:g} pixels are possible"
            )
        if max(map(abs, (skew, center_u, center_v))) > CENTER_PX:
            raise ValueError(f"no camera matrix: a principal point or skew beyond {CENTER_PX:g} pixels")
        if below != 0 or last != (0, 0, 1):
            raise ValueError("no camera matrix: entries below the diagonal are not 0 0 and 0 0 1")
        return value

    @field_validator("ego_from_camera")
    @classmethod
    def _is_on_the_vehicle(cls, value: RigidPose) -> RigidPose:
        return _check_mounting(value)

    @model_validator(mode="after")
    def _is_an_image(self) -> CameraRecord:
        if self.width * self.height > CAMERA_PIXELS:
            raise ValueError(f"{self.width} x {self.height} pixels, at most {CAMERA_PIXELS:,} are allowed")
        return self


class LidarRecord(_Measured):
    """One LiDAR sweep at its own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Point file: float32 in little-endian order, relative to the dataset root.")
    point_columns: int = Field(5, ge=3, description="float32 values of each point in the file; x, y, z come first.")
    timestamp_us: int = Field(ge=-LATEST_US, le=LATEST_US, description="Time of the sweep, microseconds.")
    ego_from_lidar: RigidPose = Field(description="Mounting of the LiDAR.")
    global_from_ego: RigidPose = Field(description="Vehicle pose at the sweep's time.")
    labels_path: str | None = Field(
        None, description="Point labels (lidarseg .bin or panoptic .npz), if there are any."
    )

    @field_validator("ego_from_lidar")
    @classmethod
    def _is_on_the_vehicle(cls, value: RigidPose) -> RigidPose:
        return _check_mounting(value)

    @property
    def global_from_lidar(self) -> Pose:
        """4x4 pose of the sensor at the sweep's time."""
        return self.global_from_ego.matrix @ self.ego_from_lidar.matrix


class BoxRecord(_Measured):
    """One annotated box at the LiDAR keyframe's time."""

    token: str = Field(description="sample_annotation token.")
    instance: str = Field(description="Instance token: the same object in all keyframes of the scene.")
    category: str = Field(description="nuScenes category name.")
    label: int = Field(ge=0, le=254, description="Index in the dataset's class table.")
    global_from_box: RigidPose = Field(
        description="Box frame: origin in the middle, x along the length, y width, z up."
    )
    size_lwh_m: tuple[_Length, _Length, _Length] = Field(description="Length, width, height, metres.")
    num_lidar_pts: int = Field(description="LiDAR points inside, as the table says.")


class MapWindow(_Measured):
    """The driveable area around a scene, cut out of its map by `prepare`; all keyframes of the scene share it."""

    path: str = Field(description="PNG, white where one may drive, first row in the north; below the records folder.")
    corner_m: tuple[float, float] = Field(description="Lower left corner of the image: (x, y), global frame, metres.")
    pixel_m: float = Field(gt=0, description="Edge of a pixel, metres.")


class SampleRecord(_Measured):
    """One keyframe: sensors, boxes, neighbours in time."""

    token: str = Field(pattern=_TOKEN, description="sample token: no separators, at most 200 letters.")
    scene: str = Field(description="Scene name.")
    frame: int = Field(ge=0, description="Number of the keyframe within its scene.")
    timestamp_us: int = Field(ge=-LATEST_US, le=LATEST_US, description="Time of the keyframe, microseconds.")
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
    if not (folder / MANIFEST).is_file() or not path.is_file():
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
    with uncollected():
        return list(each_record(folder, entries))


@contextmanager
def uncollected() -> Iterator[None]:
    """While many records are parsed: Python's collector of cycles, which they never form, would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def each_record(folder: Path, entries: Iterable[RecordEntry]) -> Iterator[SampleRecord]:
    """`read_records` one by one, for work that needs no record beside another."""
    path = folder / RECORDS_FILE
    try:
        with path.open("rb") as file:
            for entry in entries:
                file.seek(entry.start)
                yield _parse(path, entry, file.read(entry.stop - entry.start))
    except OSError as error:
        raise_machine_fault(error)
        raise DataError(f"{path} cannot be read: {error.strerror}. {PREPARE_AGAIN}") from error


def _parse(path: Path, entry: RecordEntry, line: bytes) -> SampleRecord:
    source = Source(f"{path}, line {entry.row + 1} (bytes {entry.start} to {entry.stop})", PREPARE_AGAIN)
    try:
        check_nesting(source, line, RECORD_BYTES)
        record = SampleRecord.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{describe_validation(source.where, error)}\n{PREPARE_AGAIN}") from error
    if (record.token, record.scene, record.frame) != (entry.token, entry.scene, entry.frame):
        raise source.error(
            f"is sample {record.token}, {record.scene} {record.frame}, the index says {entry.token}, {entry.scene} "
            f"{entry.frame}"
        )
    return record
