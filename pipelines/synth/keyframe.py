"""One keyframe of a generated scene: its files, and the report that the tables are made from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial import cKDTree

from pipelines.files import write_bytes, write_json
from pipelines.synth.config import SynthConfig
from pipelines.synth.ground import HALF_SIZE_M, PAINT_MARK
from pipelines.synth.observed import Turn, observe, see, turn_around
from pipelines.synth.rig import CAMERAS, KEYFRAME_US, LIDAR, Mount, build_rig, quaternion
from pipelines.synth.sensors import Cloud, Geometry, Snapshot, scan, take_picture
from pipelines.synth.tables import (
    VERSION,
    Box,
    KeyframeReport,
    Shot,
    instance_token,
    log_name,
    sample_token,
    scene_name,
    shot_token,
    token,
)
from pipelines.synth.truth import visible_shares, voxelise
from pipelines.synth.world import Thing, build_world
from schemas.classes import OCC3D
from schemas.geometry import Pose, invert_rigid, rigid_transform, transform_points
from schemas.pixels import encode_depth

BOX_RANGE_M = 75.0
SMALL_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 9)
"""Depth takes a third of what the default compression leaves."""
_START_US = 1_600_000_000_000_000
_SCENE_US = 1_000_000_000


@dataclass(frozen=True)
class Scene:
    """A scene ready to be seen."""

    config: SynthConfig
    index: int
    rig: dict[str, Mount]
    geometry: Geometry

    def time_s(self, timestamp_us: int) -> float:
        """Seconds since the first keyframe."""
        return (timestamp_us - self.start_us) * 1e-6

    @property
    def start_us(self) -> int:
        """Timestamp of the first keyframe."""
        return _START_US + self.index * _SCENE_US

    def sweep_times(self, keyframe: int) -> list[int]:
        """Timestamps of the sweeps since the last keyframe and of the keyframe itself, which comes last."""
        now_us = self.start_us + keyframe * KEYFRAME_US
        step_us = KEYFRAME_US // (self.config.sweeps_per_keyframe + 1)
        before = range(self.config.sweeps_per_keyframe, 0, -1) if keyframe > 0 else range(0)
        return [now_us - back * step_us for back in (*before, 0)]

    def ego_pose(self, timestamp_us: int) -> Pose:
        """``world_from_ego`` at a time."""
        return self.geometry.world.ego_pose(self.time_s(timestamp_us))


@lru_cache(maxsize=2)
def load_scene(config: SynthConfig, index: int) -> Scene:
    """Builds a scene, or takes the one that this process built last."""
    generator = np.random.default_rng([config.seed, index])
    rig = build_rig(config.image_size, generator)
    return Scene(config, index, rig, Geometry(build_world(generator, config.slope)))


@lru_cache(maxsize=1)
def scene_turns(config: SynthConfig, index: int) -> dict[int, tuple[Turn, Cloud]]:
    """What every sweep of a scene truly met and what it reports, by timestamp."""
    scene = load_scene(config, index)
    times = [time_us for keyframe in range(config.keyframes) for time_us in scene.sweep_times(keyframe)]
    mount = scene.rig[LIDAR].ego_from_sensor
    turns = {}
    for time_us in times:
        snapshot = scene.geometry.at(scene.time_s(time_us))
        turn, hits = turn_around(snapshot, scene.ego_pose(time_us) @ mount, time_us)
        noise = np.random.default_rng([config.seed, index, time_us])
        turns[time_us] = turn, scan(scene.geometry, hits, noise)
    return turns


def make_keyframe(root: Path, report_path: Path, config: SynthConfig, index: int, keyframe: int) -> None:
    """Writes all files of a keyframe below ``root``, then its report.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    scene = load_scene(config, index)
    if keyframe == 0:
        _write_scene_files(root, scene)
    now_us = scene.start_us + keyframe * KEYFRAME_US
    snapshot = scene.geometry.at(scene.time_s(now_us))
    shots, cloud = _lidar(root, scene, keyframe)
    for channel in CAMERAS:
        shots.append(_camera(root, scene, keyframe, channel, now_us))
    voxels = _occupancy(root, scene, keyframe, snapshot, now_us)
    boxes = _boxes(scene, snapshot, now_us, cloud)
    report = KeyframeReport(scene=index, keyframe=keyframe, shots=tuple(shots), boxes=boxes, voxels=voxels)
    write_json(report_path, report.model_dump(mode="json"))


def _encoded(extension: str, image: Shaped[np.ndarray, "h w *c"], *options: int) -> bytes:
    _, data = cv2.imencode(extension, image, list(options))
    return bytes(data)


def _write_scene_files(root: Path, scene: Scene) -> None:
    """The map mask (0.1 m per pixel, north up, driveable = 255) and the list of things behind the pixel numbers."""
    seed = scene.config.seed
    driveable = scene.geometry.world.ground[1::2, 1::2] <= PAINT_MARK
    mask = np.where(driveable[::-1], 255, 0).astype(np.uint8)
    write_bytes(root / "maps" / f"{token(seed, 'map', scene.index)}.png", _encoded(".png", mask))
    things = {
        str(thing.number): {
            "category": thing.category,
            "instance_token": instance_token(seed, scene.index, thing.number) if thing.is_annotated else None,
        }
        for thing in scene.geometry.things
    }
    write_json(root / "truth" / scene_name(scene.index) / "things.json", things)


def _shot(scene: Scene, channel: str, timestamp_us: int, *, is_key_frame: bool) -> Shot:
    world_from_ego = scene.ego_pose(timestamp_us)
    folder, extension = ("samples" if is_key_frame else "sweeps"), ("pcd.bin" if channel == LIDAR else "jpg")
    log = log_name(scene.config.seed, scene.index)
    x, y, _ = (float(value) for value in world_from_ego[:3, 3] + _origin())
    return Shot(
        channel=channel,
        timestamp_us=timestamp_us,
        is_key_frame=is_key_frame,
        filename=f"{folder}/{channel}/{log}__{channel}__{timestamp_us}.{extension}",
        ego_translation=(x, y, 0.0),
        ego_rotation=quaternion(world_from_ego[:3, :3]),
    )


def _origin() -> Float[np.ndarray, " 3"]:
    """Middle of the world in the global frame: the map starts at (0, 0)."""
    return np.array([HALF_SIZE_M, HALF_SIZE_M, 0.0])


def _lidar(root: Path, scene: Scene, keyframe: int) -> tuple[list[Shot], Cloud]:
    """Writes the sweeps since the last keyframe and the keyframe itself, which comes last."""
    shots = []
    times = scene.sweep_times(keyframe)
    for timestamp_us in times:
        shot = _shot(scene, LIDAR, timestamp_us, is_key_frame=timestamp_us == times[-1])
        _, cloud = scene_turns(scene.config, scene.index)[timestamp_us]
        write_bytes(root / shot.filename, cloud.points.tobytes())
        shots.append(shot)
    own = shot_token(scene.config.seed, shots[-1].filename)
    write_bytes(root / "lidarseg" / VERSION / f"{own}_lidarseg.bin", cloud.category.tobytes())
    return shots, cloud


def _camera(root: Path, scene: Scene, keyframe: int, channel: str, now_us: int) -> Shot:
    mount = scene.rig[channel]
    shot = _shot(scene, channel, now_us + mount.delay_us, is_key_frame=True)
    snapshot = scene.geometry.at(scene.time_s(shot.timestamp_us))
    salt = (scene.index * 7919 + keyframe * 31 + CAMERAS.index(channel)) % 100_003
    picture = take_picture(snapshot, mount, scene.ego_pose(shot.timestamp_us), salt=salt)
    write_bytes(root / shot.filename, _encoded(".jpg", picture.bgr, cv2.IMWRITE_JPEG_QUALITY, 92))
    sample = sample_token(scene.config.seed, scene.index, keyframe)
    truth = root / "truth" / scene_name(scene.index) / sample
    write_bytes(truth / f"{channel}.png", _encoded(".png", picture.truth))
    if scene.config.depth:
        write_bytes(truth / f"{channel}-depth.png", _encoded(".png", encode_depth(picture.depth_m), *SMALL_PNG))
    return shot


def _occupancy(root: Path, scene: Scene, keyframe: int, snapshot: Snapshot, now_us: int) -> tuple[int, ...]:
    poses = {channel: scene.ego_pose(now_us + mount.delay_us) for channel, mount in scene.rig.items()}
    world, time_s = scene.geometry.world, scene.time_s(now_us)
    of_moving = {thing.number: world.pose(thing, time_s) for thing in world.things if thing.track is not None}
    occupancy = voxelise(snapshot, poses[LIDAR])
    labels = occupancy.semantics
    turns = [turn for turn, _ in scene_turns(scene.config, scene.index).values()]
    mask_lidar = observe(occupancy, poses[LIDAR], turns, now_us, of_moving)
    mask_camera = mask_lidar & see(occupancy, scene.rig, poses)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, semantics=labels, mask_lidar=mask_lidar, mask_camera=mask_camera)
    sample = sample_token(scene.config.seed, scene.index, keyframe)
    write_bytes(root / "gts" / scene_name(scene.index) / sample / "labels.npz", buffer.getvalue())
    counts = np.bincount(labels.ravel(), minlength=OCC3D.num_classes)
    return tuple(int(counts[OCC3D.index(name)]) for name in OCC3D.occupied)


def _boxes(scene: Scene, snapshot: Snapshot, now_us: int, cloud: Cloud) -> tuple[Box, ...]:
    world, time_s = scene.geometry.world, scene.time_s(now_us)
    world_from_ego = scene.ego_pose(now_us)
    near = [
        thing
        for thing in sorted(world.things, key=lambda thing: thing.number)
        if thing.is_annotated and np.linalg.norm(world.pose(thing, time_s)[:2, 3] - world_from_ego[:2, 3]) < BOX_RANGE_M
    ]
    if not near:
        return ()
    eye = (world_from_ego @ [1.0, 0.0, 1.55, 1.0])[:3]
    shares = visible_shares(snapshot, near, eye)
    points = cloud.points[:, :3].astype(np.float64)
    tree = cKDTree(transform_points(world_from_ego @ scene.rig[LIDAR].ego_from_sensor, points))
    offset = _origin() - [0.0, 0.0, world_from_ego[2, 3]]  # the tables know no heights of the vehicle
    return tuple(
        _box(thing, world.pose(thing, time_s), float(share), tree, offset)
        for thing, share in zip(near, shares, strict=True)
    )


def _box(
    thing: Thing, world_from_thing: Pose, share: float, points_world: cKDTree, offset_m: Float[np.ndarray, " 3"]
) -> Box:
    size = thing.size_wlh_m
    middle = world_from_thing @ [0.0, 0.0, size[2] / 2, 1.0]
    x, y, z = (round(float(value), 3) for value in middle[:3])
    rotation = quaternion(world_from_thing[:3, :3])
    inside = _inside(rigid_transform(rotation, (x, y, z)), size, points_world)
    return Box(
        number=thing.number,
        category=thing.category,
        attribute=_attribute(thing),
        translation=tuple(float(value) for value in np.array([x, y, z]) + offset_m),
        size_wlh=size,
        rotation=rotation,
        visible_share=round(share, 4),
        num_lidar_pts=inside,
    )


def _inside(world_from_box: Pose, size_wlh_m: tuple[float, float, float], points: cKDTree) -> int:
    """Number of points in a box, its faces included."""
    width, length, height = size_wlh_m
    near = points.query_ball_point(world_from_box[:3, 3], 0.5 * float(np.linalg.norm(size_wlh_m)) + 0.01)
    local = transform_points(invert_rigid(world_from_box), points.data[near])
    return int(np.all(np.abs(local) <= np.array([length, width, height]) / 2, axis=1).sum())


def _attribute(thing: Thing) -> str | None:
    if thing.category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.without_rider" if thing.track is None else "cycle.with_rider"
    if thing.category.startswith("vehicle."):
        return "vehicle.parked" if thing.track is None else "vehicle.moving"
    if thing.category.startswith("human."):
        return "pedestrian.standing" if thing.track is None else "pedestrian.moving"
    return None
