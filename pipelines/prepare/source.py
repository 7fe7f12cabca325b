"""What `prepare` asks of a raw dataset: the one interface that a new format implements.

A source reads tables or lists and makes records; `prepare` does the rest: it checks, links and stores them scene by
scene, cuts the map, and computes camera matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from schemas.records import CameraRecord, LidarRecord, RigidPose, SampleRecord


class Hole(NamedTuple):
    """A file that a keyframe can do without."""

    kind: Literal["sweeps", "point_labels"]
    token: str
    """Of the sweep, or of the one that the labels belong to."""
    problem: str
    expected: bool = False
    """The dataset is known to lack such files here: they are counted, and no error."""


FileCheck = Callable[[SampleRecord], Sequence[Hole]]
"""Looks at the files behind a record: raises `DataError` for the first one that it needs, returns those that it does
not."""


class Keyframe(NamedTuple):
    """One keyframe of the plan, before its sensors are read."""

    token: str
    scene: str
    frame: int
    """Number within the scene, in order of time."""
    splits: tuple[str, ...]
    """Names of the splits that hold it; empty when `every` or `limit` leave it out: it is only a neighbour then."""


class MapImage(NamedTuple):
    """A mask of the driveable area; the lower left corner of the image is the origin of the global frame."""

    path: Path
    """Image file, brighter than 127 where one may drive."""
    pixel_m: float
    """Edge of a pixel, metres."""


@runtime_checkable
class Source(Protocol):
    """A raw dataset. `prepare` calls all methods in its own process; tasks get only what `file_check` returns."""

    def fingerprint(self) -> Mapping[str, str]:
        """SHA-256 of everything that the records are made of, by a name for messages, such as `tables`.

        A finished run calls only this, so it reads files but parses none.

        Raises:
            DataError: the dataset or a part of it is missing; names the folder and the remedy.
        """

    def raw_files(self) -> Sequence[Path]:
        """Raw files that the records are made of, and folders of which the names count."""

    def keyframes(self) -> Sequence[Keyframe]:
        """All keyframes of all scenes that some split names, ordered by scene name, then time (`assign_splits`).

        Raises:
            ConfigError: a split names a scene that is not there.
            DataError: the lists or tables are broken.
        """

    def read(self, keyframe: Keyframe) -> SampleRecord:
        """Record of one keyframe; `previous`, `next` and `map_window` stay None, `prepare` fills them in.

        The ego frame is that of `schemas.geometry`; the global frame may be any fixed one with z up, so a source whose
        poses live elsewhere (such as in a camera's frame) brings them there.

        Raises:
            DataError: something about this keyframe is wrong; names file, sample, value and remedy.
        """

    def map_image(self, scene: str) -> MapImage | None:
        """Mask of the driveable area around a scene; None where there is no map."""

    def file_check(self) -> FileCheck:
        """Check of the files of one record, for the tasks: a top-level function or a partial of one, which pickles."""


def vehicle_pose(lidar: LidarRecord | None, cameras: Mapping[str, CameraRecord], time_us: int) -> RigidPose:
    """`SampleRecord.global_from_vehicle`: the LiDAR keyframe's pose, or that of the camera nearest in time.

    Args:
        lidar: sweep at the keyframe, if there is a LiDAR.
        cameras: images of the keyframe; of two that are equally near the first one counts.
        time_us: time of the keyframe, microseconds.
    """
    if lidar is not None:
        return lidar.global_from_ego
    return min(cameras.values(), key=lambda camera: abs(camera.timestamp_us - time_us)).global_from_ego
