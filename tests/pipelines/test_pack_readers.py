"""Packed shards in the hands of programs that are not ours: tar, sha256sum, webdataset, wids, DALI, Croissant."""

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
import wids
import yaml

from pipelines.pack import PackConfig, pack
from schemas.shards import SHARD_FORMAT, Manifest, SampleEntry, ShardIndex

CROISSANT = """
import json, sys
import mlcroissant
data = mlcroissant.Dataset(jsonld=sys.argv[1])
rows = list(data.records("images"))
images = [[row[f"images/{name}"] for name in ("sample", "camera", "image")] for row in rows]
images = [(sample.decode(), camera.decode(), image.size) for sample, camera, image in images]
print(json.dumps({"errors": sorted(data.metadata.issues.errors), "name": data.metadata.name, "images": images}))
"""
LIBRARIES = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)
"""They leave their files to the garbage collector."""


@pytest.fixture
def index(packed: Path) -> ShardIndex:
    return ShardIndex.model_validate_json((packed / "train-00000.index.json").read_bytes())


def names(samples: tuple[SampleEntry, ...]) -> set[str]:
    return {f"{sample.key}.{member}" for sample in samples for member in sample.members}


def test_tar_lists_and_extracts_every_member(packed: Path, index: ShardIndex, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", packed / "train-00000.tar", "-C", tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == names(index.samples)


def test_sha256sum_knows_every_file_but_those_of_the_stage(packed: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=packed, check=True, capture_output=True, text=True
    )
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == {path.name for path in packed.iterdir() if path.is_file()} - {
        "SHA256SUMS",
        "manifest.json",
        "plan.json",
    }


@LIBRARIES
@pytest.mark.parametrize("shuffled", [False, True])
def test_webdataset_reads_the_shards(packed: Path, index: ShardIndex, shuffled: bool) -> None:
    data = webdataset.WebDataset(str(packed / "train-00000.tar"), shardshuffle=False)
    samples = list(data.shuffle(10, initial=10) if shuffled else data)
    assert sorted(sample["__key__"] for sample in samples) == [entry.key for entry in index.samples]
    for entry, sample in zip(index.samples, sorted(samples, key=lambda one: one["__key__"]), strict=True):
        assert {name: len(sample[name]) for name in entry.members} == {
            n: size for n, (_, size) in entry.members.items()
        }
    gc.collect()


@LIBRARIES
@pytest.mark.parametrize("shuffled", [False, True])
def test_wids_reads_the_shards(packed: Path, index: ShardIndex, shuffled: bool, tmp_path: Path) -> None:
    """Its manifest has all splits, so a reader that knows none gets them all."""
    data = wids.ShardListDataset(
        str(packed / "manifest.json"), base=str(packed), cache_dir=str(tmp_path), transformations=[]
    )
    order = list(wids.ChunkedSampler(data, shuffle=True, seed=1)) if shuffled else range(len(data))
    keys = [data[number]["__key__"] for number in order]
    assert len(keys) == 4
    assert {entry.key for entry in index.samples} < set(keys)
    data.close()
    gc.collect()


def test_dali_index_has_the_places_of_the_tar(packed: Path) -> None:
    """As its `wds2idx` writes them: a line for each sample of name, offset, size and file name."""
    version, *lines = (packed / "val-00000.idx").read_text().splitlines()
    assert version == "v1.2 2"
    with tarfile.open(packed / "val-00000.tar") as tar:
        expected = [(info.name.split(".", 1)[1], info.offset_data, info.size, info.name) for info in tar.getmembers()]
    words = [word for line in lines for word in line.split(" ")]
    found = [(words[n], int(words[n + 1]), int(words[n + 2]), words[n + 3]) for n in range(0, len(words), 4)]
    assert found == expected
    assert len(lines) == 2


def test_croissant_is_valid_and_gives_the_images(packed: Path, index: ShardIndex, tmp_path: Path) -> None:
    """The validator of MLCommons reads the description and, by it, the images out of the tars."""
    shards = tmp_path / "shards"
    shutil.copytree(packed, shards)
    command = [sys.executable, "-c", CROISSANT, str(shards / "croissant.json")]
    environment = {**os.environ, "CROISSANT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (said["errors"], said["name"]) == ([], "tiny")
    assert len(said["images"]) == 4 * 6
    assert [index.samples[0].key, "cam_front", [200, 104]] in said["images"]


def test_no_tar_looks_like_a_zip_file(packed: Path) -> None:
    """Readers that guess what a file is look for the end of a zip file in its last 64 KiB, and an npz has one."""
    for tar in packed.glob("*.tar"):
        with tarfile.open(tar) as members:
            assert members.getmembers()[-1].name.endswith(".jpg")


def test_each_sample_has_the_checksum_of_its_bytes(packed: Path, index: ShardIndex) -> None:
    data = (packed / index.shard).read_bytes()
    spans = [sample.span for sample in index.samples]
    assert [hashlib.sha256(data[start:stop]).hexdigest() for start, stop in spans] == [s.sha256 for s in index.samples]
    assert spans[0][0] == 0
    assert spans[0][1] == spans[1][0]
    assert not any(data[spans[-1][1] :])


def test_manifest_says_what_made_them(packed: Path) -> None:
    manifest = Manifest.model_validate_json((packed / "manifest.json").read_bytes())
    assert manifest.shard_format == SHARD_FORMAT
    assert manifest.code_version
    for shard in manifest.shardlist:
        assert hashlib.sha256((packed / shard.index).read_bytes()).hexdigest() == shard.index_sha256


def test_card_and_croissant_carry_the_licence(world_dataset, stored, sync_runtime, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(stored, work, ignore=shutil.ignore_patterns("shards*"))
    named = {"licence": "CC0-1.0", "attribution": "Made by protoocc synth."}
    shards = pack(world_dataset.model_copy(update={"work": work, **named}), work, PackConfig(), sync_runtime).folder
    front = yaml.safe_load((shards / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    assert {entry["path"] for entry in front["configs"][0]["data_files"]} == {"train-*.tar", "val-*.tar"}
    assert named["attribution"] in (shards / "README.md").read_text()
    croissant = json.loads((shards / "croissant.json").read_text())
    assert (croissant["license"], croissant["creditText"]) == tuple(named.values())


def test_unknown_licence_is_said(packed: Path) -> None:
    assert "Nobody said under which licence" in (packed / "README.md").read_text()
