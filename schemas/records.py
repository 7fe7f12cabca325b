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
from typing import Final, NamedTuple

from pydantic import Field, FiniteFloat, ValidationError, field_validator

from schemas.errors import DataError
from schemas.geometry import Pose, invert_rigid, rigid_transform
from schemas.settings import Frozen

RECORDS_FILE: Final = "samples.jsonl"
INDEX_FILE: Final = "index.jsonl"
FARTHEST_M: Final = 2e7
"""No coordinate of a pose is larger: global frames that start anywhere on a planet stay below."""
LENGTH_TOLERANCE: Final = 0.01
"""Rotations may differ so much from unit length; they are normalised when a matrix is made."""
LONGEST_FOCUS_PX: Final = 1e6
LARGEST_BOX_M: Final = 200.0
_LATEST_US: Final = 2**62
_TOKEN: Final = r"^(?!\.\.?$)[^/\\\x00]{1,200}$"
"""Tokens become folders of label sets, so they hold no separators."""
PREPARE_AGAIN: Final = "Run `protoocc prepare --overwrite`."


class RigidPose(Frozen):
    """A rigid pose as stored: the matrix is `dst_from_src` of the field's name."""

    rotation_wxyz: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] = Field(description="Unit quaternion (w, x, y, z).")
    translation_m: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = Field(description="(x, y, z) metres.")

    @field_validator("rotation_wxyz")
    @classmethod
    def _has_length(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not abs(math.hypot(*value) - 1) <= LENGTH_TOLERANCE:
            raise ValueError(f"rotation {value} is no unit quaternion (w, x, y, z): length {math.hypot(*value):.4g}")
        return value

    @field_validator("translation_m")
    @classmethod
    def _is_on_a_planet(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not max(map(abs, value)) <= FARTHEST_M:
            raise ValueError(f"translation {value} lies more than {FARTHEST_M:.0f} m away")
        return value

    @property
    def matrix(self) -> Pose:
        """4x4 float64 ``dst_from_src``."""
        return rigid_transform(self.rotation_wxyz, self.translation_m)


class CameraRecord(Frozen):
    """One camera image of a keyframe, at the camera's own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Image file, relative to the dataset root.")
    timestamp_us: int = Field(ge=0, le=_LATEST_US, description="Exposure time, microseconds.")
    width: int = Field(gt=0, le=65535, description="Width of the file's image, pixels.")
    height: int = Field(gt=0, le=65535, description="Height of the file's image, pixels.")
    intrinsics: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...] = Field(
        min_length=3, max_length=3, description="3x3 camera matrix of the file's image, pixels."
    )
    ego_from_camera: RigidPose = Field(description="Mounting of the camera.")
    global_from_ego: RigidPose = Field(description="Vehicle pose at the camera's time, not the LiDAR's.")

    @field_validator("intrinsics")
    @classmethod
    def _has_focus(cls, value: tuple[tuple[float, float, float], ...]) -> tuple[tuple[float, float, float], ...]:
        focus = (value[0][0], value[1][1])
        if not 0 < min(focus) <= max(focus) <= LONGEST_FOCUS_PX or value[2] != (0.0, 0.0, 1.0):
            raise ValueError(
                f"{value} is no camera matrix: expected focal lengths above 0 and up to {LONGEST_FOCUS_PX:.0f} pixels "
                "and the last row (0, 0, 1)"
            )
        return value


class LidarRecord(Frozen):
    """One LiDAR sweep at its own time."""

    token: str = Field(description="sample_data token.")
    path: str = Field(description="Point file: float32 in little-endian order, relative to the dataset root.")
    point_columns: int = Field(5, ge=3, description="float32 values of each point in the file; x, y, z come first.")
    timestamp_us: int = Field(ge=0, le=_LATEST_US, description="Time of the sweep, microseconds.")
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
    size_lwh_m: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = Field(description="Length, width, height, metres.")
    num_lidar_pts: int = Field(description="LiDAR points inside, as the table says.")

    @field_validator("size_lwh_m")
    @classmethod
    def _is_a_thing(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not 0 < min(value) <= max(value) <= LARGEST_BOX_M:
            raise ValueError(f"length, width, height {value}: expected above 0 and up to {LARGEST_BOX_M:.0f} m")
        return value


class MapWindow(Frozen):
    """The driveable area around a scene, cut out of its map by `prepare`; all keyframes of the scene share it."""

    path: str = Field(description="PNG, white where one may drive, first row in the north; below the records folder.")
    corner_m: tuple[float, float] = Field(description="Lower left corner of the image: (x, y), global frame, metres.")
    pixel_m: float = Field(gt=0, description="Edge of a pixel, metres.")


class SampleRecord(Frozen):
    """One keyframe: sensors, boxes, neighbours in time."""

    token: str = Field(pattern=_TOKEN, description="sample token: no separators, at most 200 letters.")
    scene: str = Field(description="Scene name.")
    frame: int = Field(ge=0, description="Number of the keyframe within its scene.")
    timestamp_us: int = Field(ge=0, le=_LATEST_US, description="Time of the keyframe, microseconds.")
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
        DataError: `prepare` has not finished there, or a line is broken.
    """
    path = folder / INDEX_FILE
    if not (folder / "manifest.json").is_file() or not path.is_file():
        raise DataError(f"{folder} holds no finished records. Run `protoocc prepare` first.")
    entries = []
    with path.open("rb") as lines:
        for row, line in enumerate(lines):
            try:
                token, scene, frame, splits, start, stop = json.loads(line)
                entries.append(RecordEntry(row, token, scene, frame, tuple(splits), start, stop))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}, line {row + 1} is no index entry: {error}. {PREPARE_AGAIN}") from error
    return entries


def read_records(folder: Path, entries: Sequence[RecordEntry]) -> list[SampleRecord]:
    """Records of some index entries, in their order.

    Args:
        folder: the `records` folder.
        entries: from `read_index`.

    Raises:
        DataError: the file is missing, or a line is broken or belongs to another sample.
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
    where = f"{path}, line {entry.row + 1} (bytes {entry.start} to {entry.stop})"
    try:
        record = SampleRecord.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{where} is no record: {error.errors()[0]['msg']}. {PREPARE_AGAIN}") from error
    if record.token != entry.token:
        raise DataError(f"{where} is sample {record.token}, the index says {entry.token}. {PREPARE_AGAIN}")
    return record
