"""Records: what a pose takes, lines of the index, sensors that are not there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.errors import DataError
from schemas.records import CameraRecord, RecordEntry, RigidPose, SampleRecord, index_lines, read_records, shift_index


def pose(x_m: float = 0.0) -> RigidPose:
    return RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(x_m, 0.0, 0.0))


def record(token: str) -> SampleRecord:
    """Cameras alone: the vehicle stood at x = 5 for the ego frame, at x = 7 for the image; the camera at x = 1."""
    camera = CameraRecord(
        token="c", path="c.jpg", timestamp_us=0, width=4, height=3, ego_from_camera=pose(1.0),
        global_from_ego=pose(7.0),
        intrinsics=((1.0, 0.0, 2.0), (0.0, 1.0, 1.5), (0.0, 0.0, 1.0)),
    )  # fmt: skip
    return SampleRecord(
        token=token, scene="s", frame=0, timestamp_us=0, previous=None, next=None, cameras={"c": camera},
        global_from_vehicle=pose(5.0), lidar=None, sweeps=(), boxes=(), map_window=None, splits=("train",),
    )  # fmt: skip


@pytest.mark.parametrize(
    "rotation", [(0.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0), (math.inf, 0.0, 0.0, 1.0)]
)
def test_rotations_that_are_none_are_refused(rotation: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValidationError, match="has length|finite number"):
        RigidPose(rotation_wxyz=rotation, translation_m=(0.0, 0.0, 0.0))


def test_rotations_are_normalised() -> None:
    assert RigidPose(rotation_wxyz=(1.009, 0.0, 0.0, 0.0), translation_m=(1.0, 2.0, 3.0)).matrix[0, 0] == 1.0


NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, '"far"', "null"]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_records_hold_finite_numbers(number: str, tmp_path: Path) -> None:
    """The line of a record is parsed by pydantic, which takes NaN where nobody forbids it."""
    line = record("a").model_dump_json().replace("[5.0,0.0,0.0]", f"[{number},0.0,0.0]").encode() + b"\n"
    assert f"[{number},0.0,0.0]".encode() in line
    with pytest.raises(DataError, match=r"samples.jsonl, line 1 .*(global_from_vehicle.translation_m|Invalid JSON)"):
        read_records(tmp_path, write_records_file(tmp_path, line))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cameras":{', '"cameras":' + '{"c":' * 100, "nested more than 64 deep"),
        ('"intrinsics":[[1.0', '"intrinsics":[[0.0', "focal lengths"),
        ('"intrinsics":[[1.0,0.0,2.0],', '"intrinsics":[', "at least 3 items"),
        ("[1.0,0.0,0.0]", "[1001.0,0.0,0.0]", "a sensor beyond 1000 m"),
        ("[7.0,0.0,0.0]", "[3e7,0.0,0.0]", "translation_m.*less than or equal to 21000000"),
        ('"width":4', '"width":0', "greater than 0"),
        ('"width":4', '"width":123456789', "pixels, at most"),
        ('"timestamp_us":0', '"timestamp_us":1e300', "whole number|valid integer|integer"),
        ('"token":"a"', '"token":"../a"', "pattern"),
        ('{"token"', '{"token', "JSON"),
    ],
)
def test_records_hold_what_sensors_have(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = record("a").model_dump_json()
    assert old in text
    with pytest.raises(DataError, match=message):
        read_records(tmp_path, write_records_file(tmp_path, text.replace(old, new).encode()))


def write_records_file(folder: Path, line: bytes) -> list[RecordEntry]:
    (folder / "samples.jsonl").write_bytes(line)
    return [RecordEntry(0, "a", "s", 0, ("train",), 0, len(line))]


def test_the_ego_frame_does_not_come_from_the_lidar() -> None:
    sample = SampleRecord.model_validate_json(record("a").model_dump_json())
    assert sample.global_from_ego[0, 3] == 5.0
    assert sample.camera_from_ego("c")[0, 3] == 5.0 - 7.0 - 1.0
    with pytest.raises(DataError, match="sample a has no LiDAR sweep"):
        sample.keyframe_sweep  # noqa: B018  the property raises


def test_joined_indexes_are_the_index_of_the_whole() -> None:
    lines = [(record(token), b"x" * length) for token, length in (("a", 5), ("b", 70), ("c", 1))]
    joined = [*index_lines(lines[:1]), *shift_index(index_lines(lines[1:]), 5)]
    assert joined == list(index_lines(lines))
    assert joined[2] == b'["c", "s", 0, ["train"], 75, 76]\n'
