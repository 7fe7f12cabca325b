from __future__ import annotations

import http.client
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from protoocc.bench.loader import measure_loader
from protoocc.bench.loader_open import open_apart
from protoocc.bench.loader_result import LoaderBench, LoaderChoice
from protoocc.bench.loader_set import write_index, write_set
from protoocc.bench.loader_ways import decode_bare, is_installed, open_bytes, open_peers, write_peers
from protoocc.bench.readers import Readers, Way
from protoocc.bench.slow_server import Line, Slowness, slow_server
from protoocc.data import ShardDataset, open_shards, verify_shard
from schemas.errors import DataError, StageError

# fsspec leaves an answer's connection to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed")


def best(result: LoaderBench, part: str, way: str) -> float:
    (row,) = [row for row in result.rows if (row.part, row.way) == (part, way)]
    assert row.best is not None and row.best > 0
    return row.best


def test_decoding_is_compared_on_the_same_samples(shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    choice = LoaderChoice(parts=("decode",), samples=3, rounds=1, workers=2)
    result = measure_loader(shards, "train", choice, lambda done, total: seen.append((done, total)))
    assert (result.samples, result.rounds, result.split, seen) == (3, 1, "train", [(1, 2), (2, 2)])
    ours = best(result, "decode", "protoocc")
    ratios = {ratio.what: ratio for ratio in result.ratios}
    for way, wanted in (("peers' files", 4.0), ("bare decoding", 0.9)):
        ratio = ratios[f"decode: over {way}"]
        assert ratio.value == ours / best(result, "decode", way) and ratio.wanted == wanted
        assert ratio.is_met == (ratio.value >= wanted)
    for library in ("litdata", "mosaicml-streaming"):
        (row,) = [row for row in result.rows if row.way == library]
        assert row.best is not None or (not is_installed(library) and "pip install" in row.note)


def test_bytes_streams_and_openings_are_compared(shards: Path) -> None:
    choice = LoaderChoice(parts=("bytes", "stream", "open"), streamed=64, rounds=1, workers=1, indexed=70)
    result = measure_loader(shards, "val", choice)
    assert [(ratio.wanted, ratio.is_most) for ratio in result.ratios] == [
        (0.75, False),
        (0.75, False),
        (0.8, False),
        (3.0, True),
        (150.0, True),
    ]
    for state, ratio in zip(("cold", "warm"), result.ratios, strict=False):
        assert ratio.value == best(result, f"bytes, {state}", "protoocc") / best(result, f"bytes, {state}", "raw read")
    assert result.ratios[2].value == best(result, "batches", "web server") / best(result, "batches", "folder")
    assert result.ratios[3].is_met and "70 samples in 2 shards" in result.rows[-2].note


def test_a_made_set_holds_the_samples_again_and_again(shards: Path, tmp_path: Path) -> None:
    source = open_shards(shards, "val")
    made = write_set(source, tmp_path / "made", samples=5, per_shard=2)
    again = ShardDataset(open_shards(made.folder, "val"))
    assert (len(again), len(made.tars), made.size) == (5, 3, sum(path.stat().st_size for path in made.tars))
    for shard in again.shards.manifest.shardlist:
        verify_shard(made.folder, shard)
    given = ShardDataset(source)
    for number in range(5):
        assert np.array_equal(again[number].images, given[number % len(given)].images)
    assert len({again[number].token for number in range(5)}) == 5


def test_an_index_without_bytes_is_opened(shards: Path, tmp_path: Path) -> None:
    made = write_index(open_shards(shards, "train"), tmp_path / "made", samples=90, per_shard=32)
    opened = open_apart(made.folder, "train")
    assert opened.samples == 90 and opened.seconds > 0
    assert opened.grown_mb is None or 0 <= opened.grown_mb < 100
    (made.folder / "train-00001.index.json").write_text("{}")
    with pytest.raises(StageError, match="train-00001.index.json"):
        open_apart(made.folder, "train")


def test_the_peers_read_the_same_labels(shards: Path, tmp_path: Path) -> None:
    source = open_shards(shards, "train")
    size = write_peers(source, tmp_path / "peers", 2, None)
    paths = sorted((tmp_path / "peers" / "00001").glob("*.jpg"))
    assert cv2.imread(str(paths[0])).shape == (900, 1600, 3) and size > paths[0].stat().st_size / 10
    frame = ShardDataset(source)[1]
    *images, semantics, _, mask_camera = open_peers(tmp_path / "peers", 2, source.dataset.image_shape)(1)
    assert [image.shape for image in images] == [frame.images.shape[1:]] * 2
    assert np.array_equal(semantics, frame.semantics) and np.array_equal(mask_camera, frame.mask_camera)
    bare = decode_bare(open_bytes(shards, "train")(1))
    assert any(np.array_equal(array, frame.semantics) for array in bare)


def test_the_peers_read_given_images(shards: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    cv2.imwrite(str(given / "one.jpg"), np.zeros((900, 1600, 3), np.uint8))
    assert write_peers(open_shards(shards, "train"), tmp_path / "peers", 1, given) == (given / "one.jpg").stat().st_size


def open_broken() -> object:
    raise ImportError("no such library")


def test_a_way_that_fails_is_named() -> None:
    with (
        Readers([Way("mine", open_broken)], 1) as readers,
        pytest.raises(StageError, match="'mine' fails: ImportError"),
    ):  # type: ignore[arg-type]
        readers.seconds(0, [[0]])


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished shards"):
        measure_loader(tmp_path, "train", LoaderChoice())


def test_answers_share_one_line() -> None:
    clock = [10.0]
    line = Line(100.0, clock=lambda: clock[0])
    assert line.take(50) == 0.5
    assert line.take(100) == 1.5  # behind the first
    clock[0] = 12.0
    assert line.take(100) == 1.0  # the line was free again


def test_the_server_waits_and_paces(tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(data)
    with slow_server(tmp_path, Slowness(latency_s=0.05, bytes_per_s=1e6)) as address:
        connection = http.client.HTTPConnection(address.split("/")[2])
        for start, stop in ((0, len(data)), (1000, 51_000)):
            started = time.perf_counter()
            connection.request("GET", "/set/file", headers={"Range": f"bytes={start}-{stop - 1}"})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (206, data[start:stop])
            assert time.perf_counter() - started > 0.05 + (stop - start) / 1e6
        connection.request("GET", "/set/other")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404, b"")
        connection.request("HEAD", "/set/file")
        answer = connection.getresponse()
        assert (answer.getheader("Content-Length"), answer.read()) == (str(len(data)), b"")
        connection.close()
