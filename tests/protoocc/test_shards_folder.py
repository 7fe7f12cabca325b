from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protoocc.data import open_shards, read_shard_manifest
from schemas.errors import DataError
from tests.protoocc.conftest import write_shards


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_samples_stand_in_order_of_shards(shards: Path) -> None:
    opened = open_shards(shards, "train")
    assert [sample.token for _, sample in opened.samples] == [f"token-{i}" for i in range(5)]
    assert [shard.name for shard, _ in opened.samples] == ["train-00000.tar"] * 3 + ["train-00001.tar"] * 2
    assert opened.dataset.image_shape == (32, 64)
    assert read_shard_manifest(shards).name == "tiny"


def test_fingerprint_of_format_1_is_that_of_the_manifest(shards: Path, own_shards: Path) -> None:
    assert open_shards(shards, "train").fingerprint == open_shards(own_shards, "val").fingerprint
    edit(own_shards / "manifest.json", lambda manifest: manifest.update(name="other"))
    assert open_shards(shards, "train").fingerprint != open_shards(own_shards, "train").fingerprint


def test_fingerprint_of_format_2_is_that_of_the_contents(tmp_path: Path) -> None:
    """Not of what they were made from, by which program or when."""
    own_shards = write_shards(tmp_path / "shards", {"train": [3, 2], "val": [2]}, shard_format=2)
    before = open_shards(own_shards, "train").fingerprint
    edit(own_shards / "manifest.json", lambda manifest: manifest.update(code_version="2", licence="CC0-1.0"))
    assert open_shards(own_shards, "train").fingerprint == before
    edit(own_shards / "manifest.json", lambda manifest: manifest["shardlist"][2].update(sha256="0" * 64))
    assert open_shards(own_shards, "train").fingerprint != before


def test_refuses_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        open_shards(tmp_path, "train")


def test_refuses_an_unknown_split(shards: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; known: train, val"):
        open_shards(shards, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=1), "format version 1; this program reads 'wids-shard-index-v1', 2"),
        (lambda m: m.update(__kind__="other"), "kind 'other'"),
        (lambda m: m["shardlist"][0].update(url="../a.tar"), "without path separators"),
        (lambda m: m["shardlist"][0].update(nsamples=9), "lists 3 samples, manifest.json says 9"),
        (lambda m: m["dataset"].pop("cameras"), "'dataset.cameras' is missing"),
        (lambda m: m["shardlist"][0].update(index="none.index.json"), "none.index.json is missing"),
        (lambda m: m.update(shard_format=3), "shard format 3, this program reads up to 2: a newer"),
        (lambda m: m["shardlist"][0].update(index_sha256="0" * 64), "index.json: has sha256 .* manifest.json says 000"),
    ],
)
def test_refuses_a_bad_manifest(own_shards: Path, change: Callable[[Any], object], message: str) -> None:
    edit(own_shards / "manifest.json", change)
    with pytest.raises(DataError, match=message):
        open_shards(own_shards, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(key="a/b"), "without path separators"),
        (lambda s: s["members"].pop("masks.png"), "member 'masks.png' is missing"),
        (lambda s: s["members"].update({"meta.json": [10**9, 5]}), "lies outside the shard"),
        (lambda s: s["members"].update({"meta.json": [-1, 5]}), "lies outside the shard"),
        (lambda s: s["members"].update({"meta.json": [0, 0]}), "lies outside the shard"),
        (lambda s: s["members"].update({"..": [0, 5]}), "without path separators"),
        (lambda s: s.pop("token"), "'samples.1.token' is missing"),
    ],
)
def test_refuses_a_bad_index(own_shards: Path, change: Callable[[Any], object], message: str) -> None:
    edit(own_shards / "train-00000.index.json", lambda index: change(index["samples"][1]))
    with pytest.raises(DataError, match=message):
        open_shards(own_shards, "train")


def test_refuses_a_truncated_shard(own_shards: Path) -> None:
    tar = own_shards / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train-00001.tar has \d+ bytes, manifest.json says \d+: truncated"):
        open_shards(own_shards, "train")
    assert len(open_shards(own_shards, "val").samples) == 2


@pytest.mark.parametrize("name", ["manifest.json", "train-00000.index.json"])
def test_refuses_broken_json(own_shards: Path, name: str) -> None:
    (own_shards / name).write_text('{"samples": [')
    with pytest.raises(DataError, match=f"{name} is damaged"):
        open_shards(own_shards, "train")
    (own_shards / name).write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        open_shards(own_shards, "train")
