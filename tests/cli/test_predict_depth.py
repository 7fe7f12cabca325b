"""`protoocc predict` with a network that reads depth: the same from shards, records and photos, or one message."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml

from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import VoxelsConfig, make_occupancy
from pipelines.pack import PackConfig, pack
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from protoocc.checkpoint import save_checkpoint
from protoocc.hosts import build_network
from protoocc.model.parts_config import UpsampleStage
from protoocc.model.voxformer import ProposalsConfig, VoxFormerConfig
from protoocc.network import NetworkConfig
from schemas.classes import SEMANTICKITTI
from schemas.datasets import DatasetSpec
from schemas.records import read_index, read_records
from schemas.semantickitti import LEARNING_MAP
from schemas.workfolder import WorkFolder
from tests.cli.test_commands import in_process, one_message
from tests.pipelines.kitti_files import kitti_entry, write_sequence, write_voxels
from tests.protoocc.conftest import make_config

IMAGE = {"resize": None, "crop": (400, 100, 400, 170)}
"""Around the points of `write_scan`, which lie on the axis of the LiDAR."""
SHAPE = (256, 256, 32)
LEARNED = np.zeros(2**16, np.uint8)
LEARNED[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


VOXFORMER = VoxFormerConfig(
    backbone="resnet18",
    backbone_width=8,
    channels=16,
    query_shape=(32, 32, 4),
    heads=2,
    points=2,
    cross_layers=1,
    self_layers=1,
    ffn_channels=16,
    classifier_channels=8,
    upsample=(UpsampleStage(kernel=(8, 8, 8), stride=(8, 8, 8), channels=8),),
)
DEPTH_AS_IS = ProposalsConfig(learned=False)
"""Occupied where depth lies: the least network that reads depth, and a fast one."""


def save_run(folder: Path, model: NetworkConfig = DEPTH_AS_IS) -> Path:
    """A run of a network whose random weights say more than free."""
    fields = {"model": model, "image_shape": (170, 400), "classes": SEMANTICKITTI}
    torch.manual_seed(0)
    network = build_network(model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    weights, config = network.state_dict(), make_config().model_copy(update=fields)
    save_checkpoint(folder / "checkpoints", 1, weights=weights, config=config, state={})
    return folder


class Files(NamedTuple):
    run: Path
    yaml: Path
    """`datasets.yaml` with `kitti`, packed with `--depth`, and `mapped`, packed with `--depth-maps`."""
    maps: Path
    rig: Path
    """The camera as a calibration file of photos, which start at the dataset's root."""
    root: Path


def write_maps(folder: Path, dataset: DatasetSpec) -> Path:
    """A wall 12 m before the camera, nearer on the right, at every fourth pixel of the camera files."""
    records = WorkFolder(dataset.work).records
    for record in read_records(records, read_index(records)):
        depth = np.zeros((376, 1241), np.float32)
        depth[::4, ::4] = np.linspace(12, 8, 1241, dtype=np.float32)[::4]
        path = (folder / record.cameras["image_2"].path).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, depth)
    return folder


def write_rig(path: Path, dataset: DatasetSpec) -> Path:
    """The calibration of the first keyframe, and its image as the photo."""
    records = WorkFolder(dataset.work).records
    camera = read_records(records, read_index(records)[:1])[0].cameras["image_2"]
    pose, matrix = camera.ego_from_camera.matrix.tolist(), [list(row) for row in camera.intrinsics]
    entry = {"photo": camera.path, "intrinsics": matrix, "ego_from_camera": pose}
    path.write_text(yaml.safe_dump({"image": {**IMAGE, "crop": list(IMAGE["crop"])}, "cameras": {"image_2": entry}}))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sync_runtime: Runtime) -> Files:
    """Two keyframes in SemanticKITTI's layout through all stages. Their images are black, as also a JPEG has them."""
    root = tmp_path_factory.mktemp("kitti")
    folder = write_sequence(root, "00", 6, with_files=(0, 5))
    raw = np.zeros(SHAPE, np.uint16)
    raw[:, :, 4] = 40
    for scan in (0, 5):
        write_voxels(folder, scan, raw, np.zeros(SHAPE, bool))
    entries: dict[str, Any] = {}
    for name in ("kitti", "mapped"):
        dataset = kitti_entry(root, image=IMAGE).model_copy(update={"name": name, "work": root / f"work-{name}"})
        prepare(dataset, dataset.work, sync_runtime)
        make_occupancy(dataset, dataset.work, VoxelsConfig(), sync_runtime)
        make_masks(dataset, dataset.work, SeedsConfig(), sync_runtime)
        maps = write_maps(root / "maps", dataset) if name == "mapped" else None
        pack(dataset, dataset.work, PackConfig(depth=maps is None, depth_maps=maps and str(maps)), sync_runtime)
        entries[name] = dataset.model_dump(mode="json", exclude={"name"})
    (root / "datasets.yaml").write_text(yaml.safe_dump(entries))
    run, rig = save_run(root / "run"), write_rig(root / "rig.yaml", dataset)
    return Files(run, root / "datasets.yaml", root / "maps", rig, root)


def predicted(out: Path, run: Path, *words: object) -> list[np.ndarray]:
    """Classes of each keyframe in the files that `protoocc predict` wrote."""
    in_process("predict", "--run", run, "--predictions", out, *words)
    found = sorted(out.rglob("*.label"))
    return [LEARNED[np.fromfile(path, "<u2")].reshape(SHAPE) for path in found]


def of_entry(files: Files, name: str) -> tuple[object, ...]:
    return ("--datasets", files.yaml, "--dataset", name, "--split", "train")


@pytest.mark.parametrize("model", [DEPTH_AS_IS, pytest.param(VOXFORMER, marks=pytest.mark.slow)])
def test_shards_records_and_photos_predict_the_same(files: Files, tmp_path: Path, model: NetworkConfig) -> None:
    """Depth of the LiDAR and of maps, each from shards and from records; the maps also beside photos.

    A map has a depth at one pixel of 16, 12 m at column 0 and 8 m at column 1240; columns 400 to 799 are kept.
    """
    run = save_run(tmp_path / "run", model)
    lidar = predicted(tmp_path / "1", run, *of_entry(files, "kitti"))
    assert len(lidar) == 2 and len(np.unique(lidar)) > 1
    assert np.array_equal(lidar, predicted(tmp_path / "2", run, *of_entry(files, "kitti"), "--records"))
    maps = predicted(tmp_path / "3", run, *of_entry(files, "mapped"))
    assert not np.array_equal(lidar, maps)
    given = ("--records", "--depth-maps", files.maps)
    assert np.array_equal(maps, predicted(tmp_path / "4", run, *of_entry(files, "kitti"), *given))
    photos = ("--calibration", files.rig, "--images", files.root, "--depth-maps", files.maps, "--write", "npz")
    done = in_process("predict", "--run", run, "--predictions", tmp_path / "5", *photos)
    assert "image_2: depth of 6.3 % of the pixels, 9.4 to 10.7 m" in done.stderr
    with np.load(next((tmp_path / "5/npz").iterdir())) as file:
        assert np.array_equal(file["semantics"], maps[0])


def test_other_maps_are_other_predictions(files: Files, tmp_path: Path) -> None:
    maps, out = shutil.copytree(files.maps, tmp_path / "maps"), tmp_path / "out"
    words = (*of_entry(files, "kitti"), "--records", "--depth-maps", maps, "--limit", 1)
    (first,) = predicted(out, files.run, *words)
    for path in maps.rglob("*.npy"):
        np.save(path, np.load(path) / 2)
    failed = in_process("predict", "--run", files.run, "--predictions", out, *words, expect=2)
    assert "fingerprint: was" in one_message(failed.stderr)
    (second,) = predicted(tmp_path / "other", files.run, *words)
    assert not np.array_equal(first, second)


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights cannot be read: what is refused before they are loaded says nothing of them."""
    run = save_run(tmp_path_factory.mktemp("broken") / "run")
    (run / "checkpoints/step-000001/model.safetensors").write_bytes(b"none")
    return run


def test_photos_without_maps_are_one_message(files: Files, broken_run: Path, tmp_path: Path) -> None:
    command = ("predict", "--run", broken_run, "--calibration", files.rig, "--predictions", tmp_path / "out")
    message = one_message(in_process(*command, expect=2).stderr)
    assert "reads depth and photos have none" in message and "with --depth-maps DIR" in message
    several = ("--images", files.root, "--depth-maps", files.maps, "--depth-maps", files.maps)
    assert "--depth-maps was given 2 times for 1 folders" in one_message(
        in_process(*command, *several, expect=2).stderr
    )
    elsewhere = ("--images", files.root, "--depth-maps", tmp_path / "none")
    message = one_message(in_process(*command, *elsewhere, expect=2).stderr)
    assert "camera 'image_2': no depth map" in message and "image_2/000000.npy or .png" in message
    assert not (tmp_path / "out").exists()


def test_records_of_cameras_alone_are_one_message(files: Files, broken_run: Path, tmp_path: Path) -> None:
    entry = yaml.safe_load(files.yaml.read_text())["kitti"] | {"lidar": None}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"kitti": entry}))
    where = ("--datasets", tmp_path / "datasets.yaml", "--split", "train", "--records")
    message = one_message(in_process("predict", "--run", broken_run, *where, expect=2).stderr)
    assert "'kitti' has none: it has `lidar: null`" in message and "with --depth-maps DIR" in message


def test_maps_that_nobody_reads_are_refused(files: Files, tmp_path: Path) -> None:
    words = (*of_entry(files, "kitti"), "--depth-maps", files.maps)
    message = one_message(in_process("predict", "--run", files.run, *words, expect=2).stderr)
    assert "--depth-maps does not apply: shards hold the depth that they were packed with" in message
    every = save_run(tmp_path / "run", VOXFORMER.model_copy(update={"proposals": "all"}))
    message = one_message(in_process("predict", "--run", every, *words, "--records", expect=2).stderr)
    assert "--depth-maps does not apply: this network reads no depth" in message
