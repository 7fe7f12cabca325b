"""Shards that an older release packed: read as they are, and brought to the present format.

`stored/shards-format-1` was packed from a generated world by the release of commit 64ed8d4.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.manifests import read_marker
from pipelines.shard_upgrade import upgrade_shards
from pipelines.unit_files import lost_files
from protoocc.data import ShardDataset, open_shards
from protoocc.shards.places import Place
from protoocc.shards.verify import verify
from schemas.errors import DataError
from schemas.shards import SHARD_FORMAT
from tests.folders import hashes_below

STORED = Path(__file__).parent / "stored/shards-format-1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "shards"))


def test_format_1_is_read(old: Path) -> None:
    shards = open_shards(old, "train")
    assert shards.manifest.shard_format == 1
    assert shards.fingerprint == hashlib.sha256((old / "manifest.json").read_bytes()).hexdigest()
    keyframe = ShardDataset(shards)[1]
    assert keyframe.images.shape == (6, 32, 64, 3)
    assert set(np.unique(keyframe.mask_camera)) == {0, 1}
    assert verify(Place(str(old))).faults == ()


def test_an_upgrade_keeps_samples_and_runs(old: Path) -> None:
    before = open_shards(old, "train")
    first = ShardDataset(before)[0]
    tars = {name: digest for name, digest in hashes_below(old).items() if name.endswith(".tar")}
    seen: list[tuple[int, int]] = []
    assert upgrade_shards(old, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    after = open_shards(old, "train")
    assert after.manifest.shard_format == SHARD_FORMAT
    assert after.fingerprint == before.fingerprint
    assert {name: digest for name, digest in hashes_below(old).items() if name.endswith(".tar")} == tars
    assert (ShardDataset(after)[0].images == first.images).all()
    assert all(sample.sha256 for _, sample in after.samples)
    assert verify(Place(str(old))).faults == ()
    for unit in ("train-00000", "val-00000"):
        marker = read_marker(old, unit)
        assert marker is not None and f"{unit}.idx" in marker.wrote
        assert not lost_files(old, marker.wrote, deep=True)
    assert not upgrade_shards(old)


def test_a_killed_upgrade_leaves_the_old_format(old: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        raise KeyboardInterrupt

    whole = Path(shutil.copytree(old, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        upgrade_shards(old, kill)
    assert len(open_shards(old, "train").samples) == 2
    assert open_shards(old, "train").manifest.shard_format == 1
    upgrade_shards(old)
    upgrade_shards(whole)
    assert hashes_below(old) == hashes_below(whole)


def test_damaged_shards_are_not_upgraded(old: Path) -> None:
    tar = old / "val-00000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    with pytest.raises(DataError, match=r"val-00000.tar does not have the sha256 .* changed"):
        upgrade_shards(old)
    tar.write_bytes(data + b"more")
    with pytest.raises(DataError, match=r"val-00000.tar is missing or has other than the 92,160 bytes"):
        upgrade_shards(old)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="manifest.json: not found"):
        upgrade_shards(tmp_path)
