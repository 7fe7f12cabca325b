"""`protoocc predict` as a user types it: records alone, own photos, and what bad input says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from protoocc.checkpoint import save_checkpoint
from protoocc.hosts import build_network
from schemas.datasets import DatasetSpec
from schemas.geometry import OCC3D_GRID
from schemas.records import read_index, read_records
from schemas.workfolder import WorkFolder
from tests.cli.test_commands import in_process, one_message
from tests.protoocc.conftest import tiny_occ3d_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained network on the grid of Occ3D, for images of 104 x 200."""
    config = tiny_occ3d_config().model_copy(update={"image_shape": (104, 200)})
    folder = tmp_path_factory.mktemp("run") / "run"
    weights = build_network(config.model).state_dict()
    save_checkpoint(folder / "checkpoints", 1, weights=weights, config=config, state={})
    return folder


@pytest.fixture(scope="module")
def datasets(world_dataset: DatasetSpec, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`datasets.yaml` whose work folder holds the records alone: no labels, masks or shards."""
    folder = tmp_path_factory.mktemp("records")
    shutil.copytree(prepared / "records", folder / "work/records")
    entry = world_dataset.model_dump(mode="json", exclude={"name"}) | {"work": str(folder / "work")}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"tiny": entry}))
    return folder / "datasets.yaml"


@pytest.fixture
def photos(world_dataset: DatasetSpec, prepared: Path, tmp_path: Path) -> Path:
    """Six photos of one keyframe and their calibration file."""
    records = WorkFolder(prepared).records
    record = read_records(records, [read_index(records)[2]])[0]
    cameras = {}
    for channel in world_dataset.cameras:
        camera = record.cameras[channel]
        shutil.copy(world_dataset.root / camera.path, tmp_path / f"{channel}.jpg")
        pose = camera.ego_from_camera.matrix.tolist()
        matrix = [list(row) for row in camera.intrinsics]
        cameras[channel] = {"photo": f"{channel}.jpg", "intrinsics": matrix, "ego_from_camera": pose}
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump({"cameras": cameras}))
    return tmp_path / "rig.yaml"


def test_six_photos_and_a_file(run: Path, photos: Path) -> None:
    """The photos of 400 x 225 fill 200 x 104: 112 rows, the 8 at the top go."""
    out = photos.parent / "out"
    done = in_process("predict", "--run", run, "--calibration", photos, "--predictions", out)
    assert "images of 200x104, as the training images" in done.stderr
    assert "CAM_BACK: 400x225 resized to 200x112, columns 0 to 200 and rows 8 to 112 kept; looks 1" in done.stderr
    picture = Path(done.stdout.strip())
    assert picture.read_bytes().startswith(b"\x89PNG")
    with np.load(out / "npz" / f"{picture.stem}.npz") as file:
        assert file["semantics"].shape == OCC3D_GRID.shape and file["seen"].any()
    again = in_process("predict", "--run", run, "--calibration", photos, "--predictions", out)
    assert "0 samples predicted, 1 were there" in again.stderr


def test_records_alone(run: Path, datasets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = in_process("predict", "--run", run, "--datasets", datasets, "--records", "--predictions", out, "--json")
    assert json.loads(done.stdout)["computed"] == 2
    files = sorted((out / "occ3d").iterdir())
    assert len(files) == 2
    with np.load(files[0]) as file:
        assert file["arr_0"].shape == OCC3D_GRID.shape


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--write", "png"), "--write png: expected occ3d, semantickitti, npz or pictures"),
        (("--split", "train"), "--split does not apply: --calibration names your own photos"),
        (("--sample", "front"), "rig.yaml has no such sample"),
        (("--images", "nowhere"), "photo nowhere/CAM_BACK.jpg: is missing"),
    ],
)
def test_bad_words_are_one_message(run: Path, photos: Path, words: tuple[str, ...], expected: str) -> None:
    where = ("--run", run, "--calibration", photos, "--predictions", photos.parent / "out")
    assert expected in one_message(in_process("predict", *where, *words, expect=2).stderr)
    assert not (photos.parent / "out").exists()


def test_a_camera_that_sees_nothing_is_one_message(run: Path, photos: Path) -> None:
    """900 m ahead of the car and looking forward."""
    rig = yaml.safe_load(photos.read_text())
    rig["cameras"]["CAM_FRONT"]["ego_from_camera"][0][3] = 900.0
    photos.write_text(yaml.safe_dump(rig))
    out = photos.parent / "out"
    failed = in_process("predict", "--run", run, "--calibration", photos, "--predictions", out, expect=2)
    message = one_message(failed.stderr)
    assert "camera 'CAM_FRONT': it has no voxel of the grid" in message and "Correct ego_from_camera" in message
