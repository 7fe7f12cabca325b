"""`as_webdataset`: the library's pipeline with our decoders, from folders and addresses."""

import gc
import json
from pathlib import Path

import pytest

import protoocc
from protoocc.data import ShardDataset, open_shards
from schemas.errors import ConfigError, DataError
from tests.protoocc.loopback import serve

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning"
)
"""fsspec leaves the connection of an answer that is an error to the garbage collector."""


def test_samples_are_those_of_the_reader(own_shards: Path) -> None:
    dataset = ShardDataset(open_shards(own_shards, "train"))
    with serve(own_shards) as server:
        server.faults["train-00001.tar"] = ["reset", 503]
        far = list(protoocc.as_webdataset(server.address, "train"))
    near = list(protoocc.as_webdataset(own_shards, "train"))
    assert (
        [sample["token"] for sample in far] == [sample["token"] for sample in near] == [f"token-{i}" for i in range(5)]
    )
    for index, (one, other) in enumerate(zip(far, near, strict=True)):
        keyframe = dataset[index]
        assert (one["images"] == keyframe.images).all() and (other["images"] == keyframe.images).all()
        assert (one["semantics"] == keyframe.semantics).all()
        assert "depth_m" not in one and "past" not in one
    assert near[3]["__key__"] == "scene-train-00001-0000"
    gc.collect()


def test_stages_of_the_library_can_be_appended(own_shards: Path) -> None:
    batches = list(protoocc.as_webdataset(own_shards, "train").shuffle(10, initial=10).batched(2, partial=True))
    assert [len(batch["images"]) for batch in batches] == [2, 2, 1]
    assert batches[0]["images"].shape == (2, 2, 32, 64, 3)
    assert {key for batch in batches for key in batch["token"]} == {f"token-{i}" for i in range(5)}


def test_every_epoch_has_every_sample(own_shards: Path) -> None:
    pipeline = protoocc.as_webdataset(own_shards, "val")
    assert [len(list(pipeline)) for _ in range(2)] == [2, 2]


def test_changed_bytes_are_refused(own_shards: Path) -> None:
    tar = own_shards / "val-00000.tar"
    data = bytearray(tar.read_bytes())
    data[-600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"val-00000.tar has sha256"):
        list(protoocc.as_webdataset(own_shards, "val"))


def test_a_file_of_another_name_is_refused(own_shards: Path) -> None:
    path = own_shards / "val-00000.index.json"
    index = json.loads(path.read_text())
    members = index["samples"][0]["members"]
    members["cam_front.jpg"], members["cam_back.jpg"] = members["cam_back.jpg"], members["cam_front.jpg"]
    path.write_text(json.dumps(index))
    with pytest.raises(
        DataError, match=r"sample scene-val-00000-0000: the index has 'cam_front.jpg' where .*cam_back.jpg"
    ):
        list(protoocc.as_webdataset(own_shards, "val"))


def test_an_unknown_split_is_refused(own_shards: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'test' in tiny; known: train, val"):
        protoocc.as_webdataset(own_shards, "test")
