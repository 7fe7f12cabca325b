"""The 13 tables of nuScenes and `lidarseg.json`, put together from what each keyframe reports."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, Final

from pipelines.synth.rig import CAMERAS, LIDAR, Mount
from pipelines.synth.sensors import CATEGORIES
from schemas.settings import Frozen

VERSION: Final = "v1.0-synth"
Row = dict[str, Any]

ATTRIBUTES: Final = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
VISIBILITIES: Final = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))


class Shot(Frozen):
    """One file of one sensor."""

    channel: str
    timestamp_us: int
    is_key_frame: bool
    filename: str
    ego_translation: tuple[float, float, float]
    ego_rotation: tuple[float, float, float, float]


class Box(Frozen):
    """One annotated thing at a keyframe, global frame."""

    number: int
    category: str
    attribute: str | None
    translation: tuple[float, float, float]
    size_wlh: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    visible_share: float
    num_lidar_pts: int


class KeyframeReport(Frozen):
    """What a finished keyframe adds to the tables."""

    scene: int
    keyframe: int
    shots: tuple[Shot, ...]
    """Sweeps before the keyframe in order of time, then the keyframe's own files."""
    boxes: tuple[Box, ...]
    voxels: tuple[int, ...]
    """Occupied voxels of each of `OCC3D.occupied`."""


def token(*parts: object) -> str:
    """A nuScenes token: 32 hexadecimal digits that depend on the parts only."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def scene_name(scene: int) -> str:
    """Name of a generated scene."""
    return f"synth-{scene:04d}"


def sample_token(seed: int, scene: int, keyframe: int) -> str:
    """Token of a keyframe."""
    return token(seed, "sample", scene, keyframe)


def shot_token(seed: int, filename: str) -> str:
    """Token of a sensor file and of its ego pose."""
    return token(seed, "sample_data", filename)


def instance_token(seed: int, scene: int, number: int) -> str:
    """Token of a thing's track."""
    return token(seed, "instance", scene, number)


def log_name(seed: int, scene: int) -> str:
    """Name of the log that a scene was cut from; file names start with it."""
    return f"s{seed:03d}-synth-{scene:04d}"


def fixed_tables(seed: int) -> dict[str, list[Row]]:
    """Tables that are the same for every world: category, attribute, visibility, sensor."""
    return {
        "category": [
            {"token": token("category", name), "name": name, "description": f"Generated: {name}.", "index": index}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": f"Generated: {name}."}
            for name in ATTRIBUTES
        ],
        "visibility": [
            {"token": key, "level": level, "description": f"{level[1:]} percent of the object is visible"}
            for key, level in VISIBILITIES
        ],
        "sensor": [
            {
                "token": token(seed, "sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == LIDAR else "camera",
            }
            for channel in (*CAMERAS, LIDAR)
        ],
    }


def scene_tables(
    seed: int, rig: dict[str, Mount], reports: list[KeyframeReport], size: tuple[int, int]
) -> dict[str, list[Row]]:
    """Rows that one scene adds.

    Args:
        seed: seed of the world.
        rig: mounts of this scene's vehicle.
        reports: its keyframes in order of time.
        size: width and height of the images, pixels.
    """
    scene = reports[0].scene
    samples = [sample_token(seed, scene, report.keyframe) for report in reports]
    boxes, instances = _annotations(seed, scene, reports, samples)
    shots, poses = _shots(seed, scene, reports, samples, size)
    return {
        "log": [_log(seed, scene)],
        "map": [_map(seed, scene)],
        "scene": [_scene(seed, scene, samples)],
        "sample": _samples(seed, scene, reports, samples),
        "calibrated_sensor": [_calibration(seed, scene, mount) for mount in rig.values()],
        "sample_data": shots,
        "ego_pose": poses,
        "sample_annotation": boxes,
        "instance": instances,
        "lidarseg": [
            _point_labels(row["token"]) for row in shots if row["is_key_frame"] and row["fileformat"] == "pcd"
        ],
    }


def _log(seed: int, scene: int) -> Row:
    return {
        "token": token(seed, "log", scene),
        "logfile": log_name(seed, scene),
        "vehicle": f"s{seed:03d}",
        "date_captured": "2026-01-01",
        "location": scene_name(scene),
    }


def _map(seed: int, scene: int) -> Row:
    own = token(seed, "map", scene)
    return {
        "token": own,
        "log_tokens": [token(seed, "log", scene)],
        "category": "semantic_prior",
        "filename": f"maps/{own}.png",
    }


def _scene(seed: int, scene: int, samples: list[str]) -> Row:
    return {
        "token": token(seed, "scene", scene),
        "log_token": token(seed, "log", scene),
        "nbr_samples": len(samples),
        "first_sample_token": samples[0],
        "last_sample_token": samples[-1],
        "name": scene_name(scene),
        "description": "Generated street with parked and moving traffic",
    }


def _samples(seed: int, scene: int, reports: list[KeyframeReport], samples: list[str]) -> list[Row]:
    keyframe_us = [next(s.timestamp_us for s in r.shots if s.is_key_frame and s.channel == LIDAR) for r in reports]
    return [
        {
            "token": own,
            "timestamp": time_us,
            "prev": before,
            "next": after,
            "scene_token": token(seed, "scene", scene),
        }
        for own, time_us, (before, after) in zip(samples, keyframe_us, _neighbours(samples), strict=True)
    ]


def _point_labels(own: str) -> Row:
    return {"token": own, "sample_data_token": own, "filename": f"lidarseg/{VERSION}/{own}_lidarseg.bin"}


def _neighbours(tokens: list[str]) -> list[tuple[str, str]]:
    before = ["", *tokens[:-1]]
    after = [*tokens[1:], ""]
    return list(zip(before, after, strict=True))


def _calibration(seed: int, scene: int, mount: Mount) -> Row:
    intrinsics = [] if mount.image_from_camera is None else mount.image_from_camera.tolist()
    return {
        "token": token(seed, "calibrated_sensor", scene, mount.channel),
        "sensor_token": token(seed, "sensor", mount.channel),
        "translation": list(mount.translation_m),
        "rotation": list(mount.rotation_wxyz),
        "camera_intrinsic": intrinsics,
    }


def _shots(
    seed: int, scene: int, reports: list[KeyframeReport], samples: list[str], size: tuple[int, int]
) -> tuple[list[Row], list[Row]]:
    rows: list[Row] = []
    poses: list[Row] = []
    for report, sample in zip(reports, samples, strict=True):
        for shot in report.shots:
            own = shot_token(seed, shot.filename)
            width, height = (0, 0) if shot.channel == LIDAR else size
            rows.append(
                {
                    "token": own,
                    "sample_token": sample,
                    "ego_pose_token": own,
                    "calibrated_sensor_token": token(seed, "calibrated_sensor", scene, shot.channel),
                    "timestamp": shot.timestamp_us,
                    "fileformat": "pcd" if shot.channel == LIDAR else "jpg",
                    "is_key_frame": shot.is_key_frame,
                    "height": height,
                    "width": width,
                    "filename": shot.filename,
                    "prev": "",
                    "next": "",
                }
            )
            poses.append(
                {
                    "token": own,
                    "timestamp": shot.timestamp_us,
                    "rotation": list(shot.ego_rotation),
                    "translation": list(shot.ego_translation),
                }
            )
    for channel in (*CAMERAS, LIDAR):
        calibration = token(seed, "calibrated_sensor", scene, channel)
        _link([row for row in rows if row["calibrated_sensor_token"] == calibration])
    return rows, poses


def _link(rows: list[Row]) -> None:
    """Fills prev and next of rows that stand in order of time."""
    for earlier, later in pairwise(rows):
        earlier["next"], later["prev"] = later["token"], earlier["token"]


def _annotations(
    seed: int, scene: int, reports: list[KeyframeReport], samples: list[str]
) -> tuple[list[Row], list[Row]]:
    rows: list[Row] = []
    tracks: dict[int, list[Row]] = {}
    category: dict[int, str] = {}
    for report, sample in zip(reports, samples, strict=True):
        for box in report.boxes:
            row = _annotation(seed, scene, report.keyframe, sample, box)
            rows.append(row)
            tracks.setdefault(box.number, []).append(row)
            category[box.number] = box.category
    for track in tracks.values():
        _link(track)
    instances = [
        {
            "token": instance_token(seed, scene, number),
            "category_token": token("category", category[number]),
            "nbr_annotations": len(track),
            "first_annotation_token": track[0]["token"],
            "last_annotation_token": track[-1]["token"],
        }
        for number, track in sorted(tracks.items())
    ]
    return rows, instances


def _annotation(seed: int, scene: int, keyframe: int, sample: str, box: Box) -> Row:
    level = 1 + sum(box.visible_share >= limit for limit in (0.4, 0.6, 0.8))
    return {
        "token": token(seed, "annotation", scene, keyframe, box.number),
        "sample_token": sample,
        "instance_token": instance_token(seed, scene, box.number),
        "visibility_token": str(level),
        "attribute_tokens": [] if box.attribute is None else [token("attribute", box.attribute)],
        "translation": list(box.translation),
        "size": list(box.size_wlh),
        "rotation": list(box.rotation),
        "prev": "",
        "next": "",
        "num_lidar_pts": box.num_lidar_pts,
        "num_radar_pts": 0,
    }
