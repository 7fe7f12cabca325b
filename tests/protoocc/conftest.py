"""A tiny packed world and a tiny network: what pack writes, made here without it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from protoocc.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from protoocc.losses import LossConfig
from protoocc.model import ProtoOccConfig, UpsampleStage
from schemas.classes import OCC3D, ClassTable
from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.shards import (
    CLASSES_MEMBER,
    DEPTH_IMAGE_MEMBER,
    DEPTH_MEMBER,
    MASKS_MEMBER,
    META_MEMBER,
    OCCUPANCY_MEMBER,
    WIDS_KIND,
    image_member,
)
from schemas.store import FORMAT_VERSION

GRID = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 4))
CAMERAS = ("CAM_FRONT", "CAM_BACK")
HEIGHT, WIDTH = 32, 64
LIDAR = [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 1.75], [0, 0, 0, 1]]
"""ego_from_lidar: above the road, half a voxel forward."""

KITTI = ClassTable(
    names=("nothing", "driveable_surface", *(f"thing_{number}" for number in range(30)), "car"),
    colors=((0, 0, 0), (255, 255, 255), *((number, 8 * number, 90) for number in range(30)), (0, 120, 245)),
    free=0,
    ignored=99,
    scored=("driveable_surface", "car"),
)
"""Another table: free space comes first, 33 classes, and the road is white."""


def make_occupancy(number: int, classes: ClassTable) -> dict[str, np.ndarray]:
    """A road at z 0 and one car whose place depends on the sample; half of the world is observed."""
    semantics = np.full(GRID.shape, classes.free, np.uint8)
    semantics[:, :, 0] = classes.index("driveable_surface")
    semantics[4 + number % 4, 2 + number % 5, 1] = classes.index("car")
    semantics[0, 0, 3] = classes.ignored
    mask_camera = np.zeros(GRID.shape, np.uint8)
    mask_camera[2:] = 1
    return {"semantics": semantics, "mask_lidar": np.ones(GRID.shape, np.uint8), "mask_camera": mask_camera}


def make_members(number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
    random = np.random.default_rng(number)
    members = {}
    for camera, channel in enumerate(CAMERAS):
        image = np.full((HEIGHT, WIDTH, 3), (20, 40 * camera + 10 * (number % 5), 200), np.uint8)
        image += random.integers(0, 20, image.shape, np.uint8)
        members[image_member(channel)] = _encode(".jpg", image)
    segments = np.arange(2 * HEIGHT * WIDTH).reshape(2 * HEIGHT, WIDTH) // 512
    members[MASKS_MEMBER] = _encode(".png", (segments % 8 + 300).astype(np.uint16))
    occupancy = io.BytesIO()
    np.savez_compressed(occupancy, **make_occupancy(number, classes))
    members[OCCUPANCY_MEMBER] = occupancy.getvalue()
    intrinsics = [[30.0, 0.0, 32.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]]
    front = [[0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    back = [[0, 1, 0, 0], [0, 0, -1, 1], [-1, 0, 0, 0], [0, 0, 0, 1]]
    pose = [[1, 0, 0, 2.0 * number], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    meta = {"token": token, "image_from_camera": [intrinsics] * 2, "camera_from_ego": [front, back]}
    meta |= {"global_from_ego": pose, "cameras": list(CAMERAS), "segment_count": [308, 308]}
    meta |= {"ego_from_lidar": LIDAR}
    members[META_MEMBER] = json.dumps(meta).encode()
    return members


def make_members_without_lidar(number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
    """What `pack` wrote before it told where the LiDAR stands, and what it writes for logs of cameras alone."""
    members = make_members(number, token, classes)
    meta = json.loads(members[META_MEMBER])
    del meta["ego_from_lidar"]
    return members | {META_MEMBER: json.dumps(meta).encode()}


def make_depth_member(number: int, classes: ClassTable) -> bytes:
    """Two points in the first camera, at (u, v) = (3, 1) and (10 + number, 20), and one in the second."""
    points = io.BytesIO()
    np.savez_compressed(
        points,
        count=np.array([2, 1], np.uint32),
        u=np.array([3, 10 + number, 63], np.uint16),
        v=np.array([1, 20, 31], np.uint16),
        depth_m=np.array([2.5, 12.0, 40.0], np.float16),
        label=np.array([classes.index("car"), classes.index("driveable_surface"), classes.ignored], np.uint8),
    )
    return points.getvalue()


def make_depth_members(number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
    """What `pack --depth` writes."""
    return make_members(number, token, classes) | {DEPTH_MEMBER: make_depth_member(number, classes)}


def make_pixel_members(number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
    """Image targets: bright pixels are a near car, dark ones far road, the first row is sky, the last one unknown."""
    random = np.random.default_rng(number)
    members, labels = {}, []
    for channel in CAMERAS:
        near = np.repeat(np.repeat(random.integers(0, 2, (4, 8), np.uint8), 8, axis=0), 8, axis=1)
        image = np.where(near[..., None] == 1, 220, 30).astype(np.uint8).repeat(3, axis=2)
        members[image_member(channel)] = _encode(".jpg", image)
        label = np.where(near == 1, classes.index("car"), classes.index("driveable_surface")).astype(np.uint8)
        label[0], label[-1] = classes.free, classes.ignored
        labels.append(label)
    stacked = np.concatenate(labels)
    depth = np.where(stacked == classes.index("car"), 500, 3000)
    depth[(stacked == classes.free) | (stacked == classes.ignored)] = 0
    members[CLASSES_MEMBER] = _encode(".png", stacked)
    members[DEPTH_IMAGE_MEMBER] = _encode(".png", depth.astype(np.uint16))
    return members


Members = Callable[[int, str, ClassTable], dict[str, bytes]]


def write_shards(
    folder: Path,
    counts: dict[str, list[int]],
    classes: ClassTable = OCC3D,
    make: Members = make_members,
    shard_format: int = 1,
) -> Path:
    """Writes shards with so many samples per split and shard; sample numbers go on over all of them."""
    folder.mkdir(parents=True)
    shardlist, number = [], 0
    for split, sizes in counts.items():
        for shard, size in enumerate(sizes):
            name = f"{split}-{shard:05d}"
            samples = []
            with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for frame in range(size):
                    key = f"scene-{name}-{frame:04d}"
                    places = {}
                    for extension, data in make(number, f"token-{number}", classes).items():
                        info = tarfile.TarInfo(f"{key}.{extension}")
                        info.size = len(data)
                        places[extension] = [tar.offset + 512, len(data)]
                        tar.addfile(info, io.BytesIO(data))
                    samples.append(
                        {"key": key, "token": f"token-{number}", "scene": name, "frame": frame, "members": places}
                    )
                    number += 1
            tar_bytes = (folder / f"{name}.tar").read_bytes()
            sums = {"sha256": hashlib.sha256(tar_bytes).hexdigest(), "md5sum": hashlib.md5(tar_bytes).hexdigest()}
            sums |= {"filesize": len(tar_bytes)}
            if shard_format > 1:
                samples = [{**sample, "sha256": span_digest(tar_bytes, sample["members"])} for sample in samples]
            index = json.dumps({"shard": f"{name}.tar", "split": split, "samples": samples, **sums})
            (folder / f"{name}.index.json").write_text(index)
            shardlist.append(
                {
                    "url": f"{name}.tar",
                    "index": f"{name}.index.json",
                    "split": split,
                    "nsamples": size,
                    "scenes": [name],
                    **({"index_sha256": hashlib.sha256(index.encode()).hexdigest()} if shard_format > 1 else {}),
                    **sums,
                }
            )
    manifest = make_manifest(shardlist, classes, make) | ({"shard_format": shard_format} if shard_format > 1 else {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if shard_format > 1:
        write_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    """`SHA256SUMS` of what lies there: all files but the manifest and those of a stage."""
    endings = (".tar", ".index.json", ".idx", "README.md", "croissant.json")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(endings))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def make_manifest(shardlist: list[dict[str, Any]], classes: ClassTable, make: Members) -> dict[str, Any]:
    return {
        "__kind__": WIDS_KIND,
        "wids_version": 1,
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "masks": "seeds",
        "dataset": {
            "name": "tiny",
            "cameras": list(CAMERAS),
            "image_shape": [HEIGHT, WIDTH],
            "grid": GRID.model_dump(mode="json"),
            "classes": classes.model_dump(mode="json"),
        },
        "depth": make is make_depth_members,
        "pixels": "truth" if make is make_pixel_members else None,
        "shardlist": shardlist,
    }


def span_digest(tar: bytes, members: dict[str, list[int]]) -> str:
    """SHA-256 over a sample's bytes, from its first header to the end of its last member."""
    start = min(offset for offset, _ in members.values()) - 512
    stop = max(offset + -(-size // 512) * 512 for offset, size in members.values())
    return hashlib.sha256(tar[start:stop]).hexdigest()


def make_config() -> TrainConfig:
    """A network of some thousand parameters with all parts of the paper, 8 steps of 2 samples."""
    return TrainConfig(
        model=ProtoOccConfig(
            grid=GRID,
            backbone="resnet18",
            backbone_width=8,
            strides=(8, 16),
            channels=16,
            query_shape=(4, 4, 2),
            encoder_layers=1,
            heads=2,
            points=2,
            ffn_channels=16,
            prototype_cell=2,
            clustering_iterations=1,
            upsample=(UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=8),),
            classifier_channels=8,
        ),
        loss=LossConfig(supervised_voxels=200, consistency_voxels=50),
        optimizer=OptimizerConfig(lr=1e-2, backbone_lr_factor=1.0),
        schedule=ScheduleConfig(steps=8, warmup_steps=2),
        data=DataConfig(batch_size=2),
        seed=3,
        checkpoint_every=3,
    )


def tiny_occ3d_config() -> TrainConfig:
    """The same network on the grid of Occ3D."""
    config = make_config()
    fields = config.model.model_dump(mode="json") | {"grid": OCC3D_GRID, "query_shape": (20, 20, 4)}
    fields["upsample"] = [{"kernel": (10, 10, 4), "stride": (10, 10, 4), "channels": 8}]
    return config.model_copy(update={"model": type(config.model).model_validate(fields)})


def _encode(suffix: str, image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(suffix, image)
    if not ok:
        raise RuntimeError(f"cannot encode {suffix}")
    return data.tobytes()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train: 3 + 2 samples in two shards; val: 2 samples. Read only."""
    return write_shards(tmp_path_factory.mktemp("tiny") / "shards", {"train": [3, 2], "val": [2]})


@pytest.fixture(scope="session")
def kitti_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same world with the labels of `KITTI`. Read only."""
    return write_shards(tmp_path_factory.mktemp("kitti") / "shards", {"train": [3, 2], "val": [2]}, KITTI)


@pytest.fixture(scope="session")
def shards_without_lidar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same world, packed before metadata told where the LiDAR stands. Read only."""
    folder = tmp_path_factory.mktemp("old") / "shards"
    return write_shards(folder, {"train": [3, 2], "val": [2]}, make=make_members_without_lidar)


@pytest.fixture(scope="session")
def depth_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with LiDAR points in its images. Read only."""
    folder = tmp_path_factory.mktemp("depth") / "shards"
    return write_shards(folder, {"train": [3], "val": [2]}, make=make_depth_members)


@pytest.fixture(scope="session")
def pixel_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image targets: 3 + 2 keyframes to train on, 2 held out. Read only."""
    folder = tmp_path_factory.mktemp("pixels") / "pixels"
    return write_shards(folder, {"train": [3, 2], "val": [2]}, make=make_pixel_members)


@pytest.fixture
def own_shards(tmp_path: Path) -> Path:
    """The same shards, to be damaged."""
    return write_shards(tmp_path / "shards", {"train": [3, 2], "val": [2]})


@pytest.fixture(scope="session")
def write_tiny_shards() -> Callable[..., Path]:
    """`write_shards`, for tests that need other splits."""
    return write_shards


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], TrainConfig]:
    """For fixtures of a wider scope than a test."""
    return make_config


@pytest.fixture
def tiny_config() -> TrainConfig:
    """Complete settings for the tiny world."""
    return make_config()
