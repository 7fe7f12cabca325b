"""What is damaged: each kind of file that a reader takes from outside, whole, with the reader that takes it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch

from pipelines.masks.sam_checkpoint import load_sam
from pipelines.occupancy.occ3d import read_labels
from protoocc.checkpoint import load_network, load_state, save_checkpoint
from protoocc.data import ShardDataset, open_shards
from protoocc.model import ProtoOcc
from protoocc.run_folder import open_run, read_metrics
from protoocc.weights import read_weights
from schemas.datasets import DatasetSpec, SplitSpec, load_datasets
from schemas.geometry import VoxelGrid
from schemas.images import ImageSpec
from schemas.records import (
    BoxRecord,
    CameraRecord,
    LidarRecord,
    RigidPose,
    SampleRecord,
    index_lines,
    read_index,
    read_records,
)
from tests.mutations import archives, mutate
from tests.mutations.joined import make_joined
from tests.mutations.published import MEMBERS, assert_possible, make_published
from tests.mutations.stores import make_stores
from tests.mutations.targets import Target, digest
from tests.pipelines.test_masks_sam import small_sam
from tests.protoocc import published_weights
from tests.protoocc.conftest import make_config, make_depth_members, write_shards

SHAPE = (8, 8, 4)


def make_originals(folder: Path) -> list[Target]:
    """Writes one of each kind below a folder."""
    return [
        *_shards(folder),
        *make_published(folder),
        *make_joined(folder),
        *_records(folder),
        *_checkpoints(folder),
        *_labels(folder),
        *_settings(folder),
        *make_stores(folder),
    ]


def _shards(folder: Path) -> list[Target]:
    shards = write_shards(folder / "shards", {"train": [2], "val": [1]}, make=make_depth_members)
    index = json.loads((shards / "train-00000.index.json").read_text())
    tar = (shards / "train-00000.tar").read_bytes()
    members = []
    for extension, mutator in MEMBERS.items():
        offset, size = index["samples"][1]["members"][extension]
        members.append(
            Target(
                f"member {extension}",
                "shards/train-00000.tar",
                _read_shards,
                (mutator, mutator, mutate.damage_bytes),
                lambda place, data, extension=extension: _repack(place / "shards", extension, data),
                tar[offset : offset + size],
            )
        )
    as_json = (mutate.damage_json, mutate.damage_json, mutate.damage_bytes)
    return [
        Target("shard manifest", "shards/manifest.json", _read_shards, as_json),
        Target("shard index", "shards/train-00000.index.json", _read_shards, as_json),
        Target("tar", "shards/train-00000.tar", _read_shards, (mutate.damage_bytes,), _install_tar),
        *members,
    ]


def _read_shards(folder: Path) -> str:
    """Every keyframe of both splits, with an earlier one."""
    found = []
    for split in ("train", "val"):
        dataset = ShardDataset(open_shards(folder / "shards", split), frames=2, interval=1)
        for index in range(len(dataset)):
            keyframe = dataset[index]
            assert_possible(keyframe, dataset)
            arrays = (keyframe.images, keyframe.semantics, keyframe.mask_lidar, keyframe.mask_camera)
            poses = (keyframe.image_from_camera, keyframe.camera_from_ego, keyframe.global_from_ego)
            optional = (keyframe.segment_id, keyframe.depth_m, keyframe.pixel_classes)
            found.append(digest(*arrays, *poses, *(array for array in optional if array is not None)))
    return " ".join(found)


def _repack(shards: Path, extension: str, data: bytes) -> None:
    """The shard with other content of a member of its second sample; index and manifest agree with it."""
    index = json.loads((shards / "train-00000.index.json").read_text())
    old = (shards / "train-00000.tar").read_bytes()
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(index["samples"]):
            for name, (offset, size) in sample["members"].items():
                content = data if (number, name) == (1, extension) else old[offset : offset + size]
                info = tarfile.TarInfo(f"{sample['key']}.{name}")
                info.size = len(content)
                sample["members"][name] = [tar.offset + 512, len(content)]
                tar.addfile(info, io.BytesIO(content))
    (shards / "train-00000.tar").write_bytes(stored.getvalue())
    _agree(shards, index, stored.getvalue())


def _install_tar(folder: Path, data: bytes) -> None:
    """A damaged tar whose size and checksum the manifest tells: what an attacker would do."""
    shards = folder / "shards"
    (shards / "train-00000.tar").write_bytes(data)
    _agree(shards, json.loads((shards / "train-00000.index.json").read_text()), data)


def _agree(shards: Path, index: dict[str, object], tar: bytes) -> None:
    own = {"filesize": len(tar), "sha256": hashlib.sha256(tar).hexdigest(), "md5sum": hashlib.md5(tar).hexdigest()}
    (shards / "train-00000.index.json").write_text(json.dumps({**index, **own}))
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shardlist"][0] |= own
    (shards / "manifest.json").write_text(json.dumps(manifest))


def _records(folder: Path) -> list[Target]:
    records = folder / "records"
    records.mkdir()
    (records / "manifest.json").write_text("{}")
    samples = [_record(number) for number in range(3)]
    lines = [f"{sample.model_dump_json()}\n".encode() for sample in samples]
    (records / "samples.jsonl").write_bytes(b"".join(lines))
    (records / "index.jsonl").write_bytes(b"".join(index_lines(zip(samples, lines, strict=True))))
    return [
        Target("records", "records/samples.jsonl", _read_records, (mutate.damage_lines, mutate.damage_bytes), _index),
        Target("record index", "records/index.jsonl", _read_records, (mutate.damage_lines, mutate.damage_bytes)),
    ]


def _index(folder: Path, data: bytes) -> None:
    """Damaged records with an index that leads to them."""
    (folder / "records/samples.jsonl").write_bytes(data)
    entries, start = [], 0
    old = [json.loads(line) for line in (folder / "records/index.jsonl").read_text().splitlines()]
    for entry, line in zip(old, data.splitlines(keepends=True), strict=False):
        entries.append([*entry[:4], start, start + len(line)])
        start += len(line)
    (folder / "records/index.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def _read_records(folder: Path) -> str:
    records = read_records(folder / "records", read_index(folder / "records"))
    for record in records:
        pose = record.global_from_ego
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3)) and np.abs(pose).max() < 3e7
        for channel in record.cameras:
            assert np.isfinite(record.camera_from_ego(channel)).all()
    return digest(*(np.frombuffer(record.model_dump_json().encode(), np.uint8) for record in records))


def _record(number: int) -> SampleRecord:
    pose = RigidPose(rotation_wxyz=(1.0, 0.0, 0.0, 0.0), translation_m=(100.0 + number, 2.0, 0.5))
    lidar = LidarRecord(
        token=f"l{number}",
        path=f"a/{number}.bin",
        timestamp_us=10**15 + number,
        ego_from_lidar=pose,
        global_from_ego=pose,
    )
    camera = CameraRecord(
        token=f"c{number}",
        path=f"a/{number}.jpg",
        timestamp_us=10**15,
        width=1600,
        height=900,
        intrinsics=((1266.0, 0.0, 816.0), (0.0, 1266.0, 491.0), (0.0, 0.0, 1.0)),
        ego_from_camera=pose,
        global_from_ego=pose,
    )
    box = BoxRecord(
        token="b",
        instance="i",
        category="vehicle.car",
        label=4,
        global_from_box=pose,
        size_lwh_m=(4.0, 2.0, 1.5),
        num_lidar_pts=9,
    )
    return SampleRecord(
        token=f"t{number}",
        scene="s",
        frame=number,
        timestamp_us=10**15,
        previous=None,
        next=None,
        cameras={"CAM_FRONT": camera, "CAM_BACK": camera},
        lidar=lidar,
        global_from_vehicle=pose,
        sweeps=(lidar,),
        boxes=(box,),
        map_window=None,
        splits=("train",),
    )


def _checkpoints(folder: Path) -> list[Target]:
    config = make_config()
    torch.manual_seed(0)
    network = ProtoOcc(config.model)
    state = {"step": 1, "rng": torch.get_rng_state(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    save_checkpoint(folder / "checkpoints", 1, weights=network.state_dict(), config=config, state=state)
    step = "checkpoints/step-000001"
    (folder / step / "SHA256SUMS").unlink()
    torch.save(published_weights.numbers(published_weights.resnet("", 8, (1, 1, 1, 1))), folder / "resnet.pth")
    weights = torch.load(folder / "resnet.pth", weights_only=True)
    torch.save({"state_dict": weights}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(small_sam().state_dict(), folder / "sam.pth")
    safe, pickled = (archives.damage_safetensors,), (archives.damage_torch, archives.damage_torch, mutate.damage_bytes)
    as_json = (mutate.damage_json, mutate.damage_json, mutate.damage_bytes)
    return [
        Target("checkpoint weights", f"{step}/model.safetensors", lambda place: _read_network(place / step), safe),
        Target("checkpoint settings", f"{step}/config.json", lambda place: _read_network(place / step), as_json),
        Target("checkpoint state", f"{step}/state.pt", lambda place: _read_state(place / step), pickled),
        Target("torch weights", "resnet.pth", lambda place: _read_torch(place / "resnet.pth"), pickled),
        Target("legacy torch weights", "legacy.pth", lambda place: _read_torch(place / "legacy.pth"), pickled),
        Target("SAM weights", "sam.pth", _read_sam, pickled),
    ]


def _read_network(checkpoint: Path) -> str:
    return digest(*(value.numpy() for value in load_network(checkpoint)[0].state_dict().values()))


def _read_state(checkpoint: Path) -> str:
    return str(sorted(map(str, load_state(checkpoint / "state.pt"))))


def _read_torch(path: Path) -> str:
    return digest(*(value.numpy() for value in read_weights(path).tensors.values()))


def _read_sam(folder: Path) -> str:
    return digest(*(value.numpy() for value in load_sam(folder / "sam.pth", None).state_dict().values()))


def _labels(folder: Path) -> list[Target]:
    arrays = {name: np.ones(SHAPE, np.uint8) for name in ("semantics", "mask_lidar", "mask_camera")}
    np.savez_compressed(folder / "labels.npz", **arrays)
    dataset = DatasetSpec(
        name="d", format="nuscenes", root=folder, version="v1", work=folder,
        image=ImageSpec(resize=None, crop=(0, 0, 16, 16)), splits={"train": SplitSpec(scenes=("s",))},
        grid=VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=SHAPE),
    )  # fmt: skip

    def read(place: Path) -> str:
        labels = read_labels(place / "labels.npz", "token", dataset)
        assert np.isin(labels["semantics"], [*range(18), 255]).all() and labels["mask_camera"].max() <= 1
        return digest(*labels.values())

    return [Target("labels", "labels.npz", read, (archives.damage_npz, archives.damage_npz, mutate.damage_bytes))]


def _settings(folder: Path) -> list[Target]:
    entry = {
        "format": "nuscenes",
        "root": "data",
        "version": "v1.0",
        "image": {"resize": [128, 72], "crop": [0, 0, 128, 64]},
        "categories": {"x": "car"},
        "splits": {"train": {"scenes": ["a"], "every": 2}, "val": {"official": "val"}},
    }
    (folder / "datasets.yaml").write_text(json.dumps({"d": entry, "e": entry}))
    config = make_config()
    open_run(folder / "run", config, resume=False)
    rows = "".join(json.dumps({"step": step, "lr": 0.1, "ce": 2.5}) + "\n" for step in range(1, 5))
    (folder / "run/metrics.jsonl").write_text(rows)

    def read_run(place: Path) -> str:
        open_run(place / "run", config, resume=True)
        return str(read_metrics(place / "run"))

    return [
        Target("datasets.yaml", "datasets.yaml", _read_settings, (mutate.damage_yaml, mutate.damage_bytes)),
        Target("run settings", "run/config.json", read_run, (mutate.damage_json, mutate.damage_bytes)),
        Target("metrics", "run/metrics.jsonl", read_run, (mutate.damage_lines, mutate.damage_bytes)),
    ]


def _read_settings(folder: Path) -> str:
    return str({name: spec.model_dump_json() for name, spec in load_datasets(folder / "datasets.yaml").items()})
