"""SemanticKITTI: KITTI odometry with labelled scans, poses and voxels.

Scene = sequence, keyframe = every fifth scan. The ego frame is that of the LiDAR; the global frame is that of the
LiDAR's first scan of the sequence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from pipelines.files import names_fingerprint, sha256_of
from pipelines.prepare.semantickitti.calibration import PlacedCamera, place_camera, read_calibration
from pipelines.prepare.semantickitti.sequences import (
    named_sequences,
    plan_keyframes,
    scan_numbers,
    scan_of,
    sequences_folder,
    table_files,
)
from pipelines.prepare.semantickitti.trajectory import Trajectory, read_trajectory, to_record
from pipelines.prepare.sensor_files import check_files, read_image_head
from pipelines.prepare.source import FileCheck, Hole, Keyframe, MapImage
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, read_errors
from schemas.geometry import invert_rigid
from schemas.records import CameraRecord, LidarRecord, RigidPose, SampleRecord
from schemas.semantickitti import KEYFRAME_STEP, token_of
from schemas.settings import describe_validation

POINT_COLUMNS: Final = 4
"""float32 x, y, z, reflectance."""


class _Sequence(NamedTuple):
    """What all records of a sequence share."""

    name: str
    folder: Path
    cameras: Mapping[str, PlacedCamera]
    trajectory: Trajectory
    has_labels: bool

    def global_from_lidar(self, scan: int) -> RigidPose:
        return to_record(self.trajectory.global_from_lidar[scan])


class SemanticKittiSource:
    """The sequences below one folder, each read when its first record is asked for.

    Args:
        dataset: the entry of `datasets.yaml`.
    """

    def __init__(self, dataset: DatasetSpec) -> None:
        self._dataset = dataset
        self._sequence = cache(self._read_sequence)

    def fingerprint(self) -> Mapping[str, str]:
        """SHA-256 of calibration, poses and times, and of the names of scans, point labels and voxels."""
        folder, root = self._folder, self._dataset.root
        tables = [path for path in table_files(folder, self._names) if path.is_file()]
        with read_errors(folder):
            contents = {path.relative_to(root).as_posix(): sha256_of([path]) for path in tables}
            names = {path.relative_to(root).as_posix(): names_fingerprint(path) for path in self._listed()}
        return {"tables": _digest(contents), "files": _digest(names)}

    def raw_files(self) -> Sequence[Path]:
        """Text files, and the folders whose names decide what is there."""
        return [*table_files(self._folder, self._names), *self._listed()]

    def keyframes(self) -> Sequence[Keyframe]:
        """Every fifth scan of the sequences that some split names."""
        return plan_keyframes(self._dataset)

    def read(self, keyframe: Keyframe) -> SampleRecord:
        """Record of one keyframe, with the scans since the one before as sweeps."""
        sequence, scan = self._sequence(keyframe.scene), scan_of(keyframe.token)
        try:
            return self._record(keyframe, sequence, scan)
        except ValidationError as error:
            where = f"sample {keyframe.token}: {sequence.folder} holds what no vehicle has"
            raise DataError(
                f"{describe_validation(where, error)}\nCorrect calib.txt, poses.txt or times.txt."
            ) from error

    def map_image(self, scene: str) -> MapImage | None:
        """There are no maps."""
        return None

    def file_check(self) -> FileCheck:
        """Check of images, scans and point labels; where a sequence has keyframes alone, that is said, and no error."""
        alone = frozenset(name for name in self._names if self._has_keyframes_alone(name))
        return partial(check_scans, self._dataset.root, alone)

    @cached_property
    def _folder(self) -> Path:
        return sequences_folder(self._dataset)

    @cached_property
    def _names(self) -> list[str]:
        """Sequences that are there and that some split names."""
        return [name for name in sorted(named_sequences(self._dataset)) if (self._folder / name).is_dir()]

    def _listed(self) -> list[Path]:
        parts = [*([self._dataset.lidar] if self._dataset.lidar else []), "labels", "voxels"]
        return [self._folder / name / part for name in self._names for part in parts]

    def _has_keyframes_alone(self, name: str) -> bool:
        scans = scan_numbers(self._folder / name / (self._dataset.lidar or ""), ".bin")
        return all(scan % KEYFRAME_STEP == 0 for scan in scans)

    def _read_sequence(self, name: str) -> _Sequence:
        folder = self._folder / name
        path = folder / "calib.txt"
        calibration = read_calibration(path)
        is_exact = self._dataset.projection == "exact"
        return _Sequence(
            name=name,
            folder=folder,
            cameras={
                channel: place_camera(path, calibration, channel, exact=is_exact) for channel in self._dataset.cameras
            },
            trajectory=read_trajectory(folder, calibration.camera0_from_lidar),
            has_labels=(folder / "labels").is_dir(),
        )

    def _record(self, keyframe: Keyframe, sequence: _Sequence, scan: int) -> SampleRecord:
        first = max(scan - KEYFRAME_STEP + 1, 0)
        has_lidar = self._dataset.lidar is not None
        return SampleRecord(
            token=keyframe.token,
            scene=keyframe.scene,
            frame=keyframe.frame,
            timestamp_us=sequence.trajectory.times_us[scan],
            previous=None,
            next=None,
            cameras={name: self._camera(sequence, name, scan) for name in sequence.cameras},
            global_from_vehicle=sequence.global_from_lidar(scan),
            lidar=self._lidar(sequence, scan) if has_lidar else None,
            sweeps=tuple(self._lidar(sequence, number) for number in range(first, scan)) if has_lidar else (),
            boxes=(),
            map_window=None,
            splits=keyframe.splits,
        )

    def _camera(self, sequence: _Sequence, channel: str, scan: int) -> CameraRecord:
        path = sequence.folder / channel / f"{scan:06}.png"
        token = token_of(sequence.name, scan)
        (width, height), _ = read_image_head(path, token)
        placed = sequence.cameras[channel]
        return CameraRecord(
            token=f"{token}-{channel}",
            path=self._relative(path),
            timestamp_us=sequence.trajectory.times_us[scan],
            width=width,
            height=height,
            intrinsics=tuple(tuple(row) for row in placed.intrinsics.tolist()),
            ego_from_camera=to_record(invert_rigid(placed.camera_from_lidar)),
            global_from_ego=sequence.global_from_lidar(scan),
        )

    def _lidar(self, sequence: _Sequence, scan: int) -> LidarRecord:
        labels = sequence.folder / "labels" / f"{scan:06}.label"
        return LidarRecord(
            token=token_of(sequence.name, scan),
            path=self._relative(sequence.folder / str(self._dataset.lidar) / f"{scan:06}.bin"),
            point_columns=self._dataset.point_columns or POINT_COLUMNS,
            timestamp_us=sequence.trajectory.times_us[scan],
            ego_from_lidar=_IDENTITY,
            global_from_ego=sequence.global_from_lidar(scan),
            labels_path=self._relative(labels) if sequence.has_labels else None,
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._dataset.root).as_posix()


_IDENTITY: Final = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(0.0, 0.0, 0.0))


def check_scans(root: Path, keyframes_alone: frozenset[str], record: SampleRecord) -> Sequence[Hole]:
    """Checks the files of one record.

    Args:
        root: of the dataset.
        keyframes_alone: sequences whose scans between keyframes were never downloaded.
        record: one keyframe.

    Returns:
        Scans and point labels that are missing or broken.

    Raises:
        DataError: the image or the scan of the keyframe is missing or broken.
    """
    return [
        hole._replace(expected=hole.kind == "sweeps" and record.scene in keyframes_alone)
        for hole in check_files(root, record)
    ]


def _digest(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
