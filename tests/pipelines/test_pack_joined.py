"""Shards without images, joined with the raw data: the bytes of shards with images, and of no other files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.pack import PackConfig, pack
from pipelines.stage import Runtime
from protoocc import as_webdataset
from protoocc.data import ShardDataset, open_shards
from protoocc.shards.join import image_faults, join_images
from protoocc.shards.joined import joined_members
from protoocc.shards.members import MemberReader
from protoocc.shards.places import Place
from protoocc.shards.verify import verify
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.images import ImageSpec
from schemas.shards import META_MEMBER, ImageFiles, Manifest


@pytest.fixture(scope="module")
def bare(
    world_dataset: DatasetSpec, packed: Path, tmp_path_factory: pytest.TempPathFactory, sync_runtime: Runtime
) -> Path:
    """Shards of the tiny world without images, joined with nothing."""
    work = tmp_path_factory.mktemp("bare") / "work"
    shutil.copytree(packed.parent, work, ignore=shutil.ignore_patterns("shards*"))
    return pack(world_dataset, work, PackConfig(images=False), sync_runtime).folder


@pytest.fixture
def mine(bare: Path, tmp_path: Path) -> Path:
    """A copy of them that may be changed."""
    return Path(shutil.copytree(bare, tmp_path / "mine"))


@pytest.fixture
def raw(world_dataset: DatasetSpec, tmp_path: Path) -> Path:
    """A copy of the world's camera files, at another place."""
    return Path(shutil.copytree(world_dataset.root / "samples", tmp_path / "raw" / "samples")).parent


def first_file(shards: Path) -> str:
    reader = MemberReader(open_shards(shards, "train"))
    meta = json.loads(reader.read(0, [META_MEMBER])[META_MEMBER])
    reader.close()
    return str(meta["images"]["CAM_FRONT"]["path"])


def test_joined_samples_are_those_of_shards_with_images_to_the_bit(packed: Path, mine: Path, raw: Path) -> None:
    assert join_images(mine, raw) == 2 * 6  # the first samples of train and val
    for split in ("train", "val"):
        whole, joined = (ShardDataset(open_shards(folder, split)) for folder in (packed, mine))
        for index in range(len(whole)):
            ours, theirs = joined[index], whole[index]
            assert ours.token == theirs.token
            for name in ("images", "segment_id", "semantics", "mask_camera", "image_from_camera", "camera_from_ego"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        whole.close()
        joined.close()


def test_they_hold_no_images_and_their_descriptions_say_so(packed: Path, bare: Path) -> None:
    manifest = Manifest.model_validate_json((bare / "manifest.json").read_bytes())
    assert not any(name.endswith(".jpg") for name in manifest.extensions)
    assert b"\xff\xd8\xff" not in (bare / "train-00000.tar").read_bytes()
    assert manifest.image_files is not None and set(manifest.image_files.specs) == set(manifest.dataset.cameras)
    card = (bare / "README.md").read_text()
    assert "protoocc join" in card and ".jpg" not in card
    croissant = json.loads((bare / "croissant.json").read_text())
    assert croissant["recordSet"] == [] and "image-files" not in {part["@id"] for part in croissant["distribution"]}
    assert "protoocc join" not in (packed / "README.md").read_text()
    assert "not held" in CliRunner().invoke(app, ["status", str(bare)]).stdout


def test_with_images_nothing_changed(packed: Path) -> None:
    config = json.loads((packed / "manifest.json").read_text())["config"]
    assert "images" not in config and "depth" not in config


def test_labels_alone_need_no_images(bare: Path) -> None:
    dataset = ShardDataset(open_shards(bare, "train"))
    assert dataset.occupancy(0)["semantics"].ndim == 3
    with pytest.raises(DataError, match="hold no images.*protoocc join"):
        dataset[0]
    dataset.close()
    with pytest.raises(ConfigError, match="protoocc join"):
        as_webdataset(bare, "train")


def test_other_loops_get_the_same_images(packed: Path, mine: Path, raw: Path) -> None:
    join_images(mine, raw)
    for ours, theirs in zip(as_webdataset(mine, "train"), as_webdataset(packed, "train"), strict=True):
        np.testing.assert_array_equal(ours["images"], theirs["images"])


def _other_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "CAM_FRONT.* is missing"),
        (_longer, "bytes, the shards were packed from one of"),
        (_other_bytes, "does not have the sha256"),
    ],
)
def test_another_camera_file_is_refused(mine: Path, raw: Path, change: Callable[[Path], Any], message: str) -> None:
    """By `join`, which then joins nothing, by readers and by `verify`."""
    join_images(mine, raw)
    assert verify(Place(str(mine))).faults == () == tuple(image_faults(mine, raw))
    change(raw / first_file(mine))
    with pytest.raises(DataError, match=message):
        ShardDataset(open_shards(mine, "train"))[0]
    faults = verify(Place(str(mine))).faults
    assert len(faults) == 1 and "sample synth-0000-0000" in faults[0]
    (mine / "images.json").unlink()
    with pytest.raises(DataError, match=message):
        join_images(mine, raw)
    assert not (mine / "images.json").exists()


def test_shards_with_images_are_not_joined(packed: Path, raw: Path) -> None:
    with pytest.raises(ConfigError, match="holds its images"):
        join_images(packed, raw)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a//b.jpg", "a\\b.jpg", "a\0.jpg", "", "."]
)
def test_paths_that_leave_the_root_are_refused(path: str, tmp_path: Path) -> None:
    files = ImageFiles(specs={"CAM": ImageSpec(resize=None, crop=(0, 0, 20, 20))}, jpeg_quality=95)
    meta = json.dumps({"images": {"CAM": {"path": path, "size": 5, "sha256": "0" * 64}}}).encode()
    with pytest.raises(DataError, match="none below the root"):
        joined_members("sample", files, meta, tmp_path)


@pytest.mark.parametrize(
    "named", [None, [], {"OTHER": {}}, {"CAM": {"path": "a", "size": 0, "sha256": ""}}, {"CAM": 3}]
)
def test_samples_that_name_no_camera_file_are_refused(named: Any, tmp_path: Path) -> None:
    files = ImageFiles(specs={"CAM": ImageSpec(resize=None, crop=(0, 0, 20, 20))}, jpeg_quality=95)
    with pytest.raises(DataError, match="'images'"):
        joined_members("sample", files, json.dumps({"images": named}).encode(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files["specs"].popitem(), "the set has others"),
        (lambda files: files["specs"]["CAM_BACK"].update(crop=[0, 0, 16, 16]), "cropped to other sizes"),
        (lambda files: files["specs"]["CAM_BACK"].update(resize=[10**6, 10**6]), "resized to more than"),
    ],
)
def test_manifests_that_lie_about_camera_files_are_refused(
    mine: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    manifest = json.loads((mine / "manifest.json").read_text())
    change(manifest["image_files"])
    (mine / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=message):
        open_shards(mine, "train")


def test_join_as_a_command(mine: Path, raw: Path) -> None:
    result = CliRunner().invoke(app, ["join", str(mine), "--images", str(raw)])
    assert result.exit_code == 0, result.output
    assert "12 camera files were looked at" in " ".join(result.stderr.split())
    assert json.loads((mine / "images.json").read_text()) == {"root": str(raw.resolve())}
