"""Training and scoring from shards that lie elsewhere: same batches in the same order, a bounded cache, faults."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from protoocc.baselines import frequent_class
from protoocc.config import TrainConfig
from protoocc.data import EpochSampler, ShardDataset, make_loader, open_shards
from protoocc.data.ahead import AHEAD, FetchedAhead
from protoocc.shards.cache import SAMPLES, SampleCache
from protoocc.shards.mirror import mirror
from protoocc.shards.places import Place
from protoocc.shards.remote import LEAST_LIMIT, Remote
from protoocc.trainer import train
from schemas.errors import ConfigError, DataError, StageError
from schemas.settings import override
from tests.protoocc.conftest import write_shards
from tests.protoocc.loopback import Loopback, serve
from tests.protoocc.test_resume import CPU, KilledError, check_same_run, kill_at

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning"
)
"""fsspec leaves the connection of an answer that is an error to the garbage collector."""


@pytest.fixture
def published(packed: Path, tmp_path: Path) -> Iterator[Loopback]:
    """The tiny world's shards on a web server."""
    shutil.copytree(packed, tmp_path / "published")
    with serve(tmp_path / "published") as server:
        yield server


def made(server: Loopback, folder: Path, *, limit: int = LEAST_LIMIT) -> Path:
    return mirror(Place(server.address, wait=lambda seconds: None), folder / "cache", limit=limit)


def stored(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / SAMPLES).glob("*/*") if path.is_file())


@pytest.mark.parametrize("workers", [0, 2])
def test_same_batches_as_from_the_folder(published: Loopback, packed: Path, tmp_path: Path, workers: int) -> None:
    published.faults["train-00000.tar"] = [503, "reset", "short"]
    there, here = (ShardDataset(open_shards(folder, "train")) for folder in (made(published, tmp_path), packed))
    batches = [
        iter(make_loader(data, EpochSampler(2, 1, seed=5), workers=workers, pin_memory=False)) for data in (there, here)
    ]
    for _ in range(5):
        far, near = (next(source) for source in batches)
        assert far.tokens == near.tokens
        assert torch.equal(far.images, near.images)
        assert torch.equal(far.semantics, near.semantics)


def test_a_mirror_is_known_by_the_same_fingerprint(published: Loopback, packed: Path, tmp_path: Path) -> None:
    """So a run that was begun on a copy goes on with the stream, and the other way round."""
    assert open_shards(made(published, tmp_path), "val").fingerprint == open_shards(packed, "val").fingerprint


def test_one_sample_is_one_request_of_its_own_bytes(published: Loopback, tmp_path: Path) -> None:
    dataset = ShardDataset(open_shards(made(published, tmp_path), "train"))
    published.asked.clear()
    published.sent = 0
    sample = dataset.shards.samples[1][1]
    assert dataset[1].token == sample.token
    assert published.asked == {"train-00000.tar": 1}
    assert published.sent == sample.span[1] - sample.span[0]
    dataset[1]
    dataset.poses(1)
    assert published.asked == {"train-00000.tar": 1}


def test_earlier_keyframes_are_fetched_too(published: Loopback, tmp_path: Path) -> None:
    folder = made(published, tmp_path)
    dataset = ShardDataset(open_shards(folder, "train"), frames=2, interval=1)
    dataset.fetch(1)
    assert len(stored(folder)) == 2


def test_a_damaged_cache_is_mended(published: Loopback, packed: Path, tmp_path: Path) -> None:
    folder = made(published, tmp_path)
    dataset = ShardDataset(open_shards(folder, "train"))
    dataset[0]
    (path,) = stored(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert (dataset[0].images == ShardDataset(open_shards(packed, "train"))[0].images).all()
    assert path.read_bytes() == whole


def test_wrong_bytes_are_asked_for_again_and_then_told(published: Loopback, tmp_path: Path) -> None:
    folder = made(published, tmp_path)
    dataset = ShardDataset(open_shards(folder, "train"))
    published.faults["train-00000.tar"] = ["wrong"]
    dataset[0]
    shutil.rmtree(folder / SAMPLES)
    published.faults["train-00000.tar"] = ["wrong", "wrong"]
    with pytest.raises(DataError, match=r"train-00000.tar, sample synth-0000-0000: its bytes do not have the sha256"):
        dataset[0]
    assert not stored(folder)


def test_a_dead_server_ends_the_loader_with_one_message(published: Loopback, tmp_path: Path) -> None:
    dataset = ShardDataset(open_shards(made(published, tmp_path), "train"))
    dataset._reader.cache.place._wait = lambda seconds: None
    published.faults["train-00000.tar"] = [500] * 200
    loader = make_loader(dataset, EpochSampler(2, 1, seed=0), workers=0, pin_memory=False)
    with pytest.raises(StageError, match="given up after 6 tries in a row"):
        next(iter(loader))


def test_the_cache_stays_below_its_limit(published: Loopback, tmp_path: Path) -> None:
    """What was not read for the longest time goes first."""
    folder = made(published, tmp_path)
    shards = open_shards(folder, "train")
    samples = [sample for _, sample in shards.samples]
    sizes = [stop - start for start, stop in (sample.span for sample in samples)]
    cache = SampleCache(Remote(published.address, folder, max(sizes) + min(sizes) // 2))
    for number in (0, 1, 0):
        cache.read("train-00000.tar", samples[number])
        time.sleep(0.01)
        assert sum(path.stat().st_size for path in stored(folder)) <= cache.limit
    assert [path.name for path in stored(folder)] == [samples[0].sha256]


def test_two_runs_share_a_cache(published: Loopback, tmp_path: Path) -> None:
    folder = made(published, tmp_path)
    first, second = (ShardDataset(open_shards(folder, "train")) for _ in range(2))
    first[0]
    published.asked.clear()
    second[0]
    assert not published.asked
    assert not list((folder / SAMPLES).rglob("*.*"))


def test_mirrors_are_made_once(published: Loopback, tmp_path: Path) -> None:
    folder = made(published, tmp_path)
    published.asked.clear()
    assert made(published, tmp_path) == folder
    assert set(published.asked) == {"manifest.json", "train-00000.tar"}  # and one byte to see whether it gives parts
    index = folder / "val-00000.index.json"
    index.write_text("{}")
    made(published, tmp_path)
    assert len(open_shards(folder, "val").samples) == 2
    assert index.stat().st_size > 10


def test_what_cannot_be_streamed_is_refused(published: Loopback, own_shards: Path, tmp_path: Path) -> None:
    published.ranges = False
    with pytest.raises(ConfigError, match="gives no parts of files.*protoocc pull"):
        made(published, tmp_path)
    with serve(own_shards) as old, pytest.raises(ConfigError, match="shard format 1.*protoocc pull"):
        made(old, tmp_path)
    published.ranges = True
    with pytest.raises(ConfigError, match="too small"):
        made(published, tmp_path, limit=1000)


def test_a_run_goes_on_between_stream_and_folder(tmp_path: Path, make_tiny_config: Callable[[], TrainConfig]) -> None:
    """Begun on a stream, killed, ended on the folder with another number of reading processes: the same bits."""
    shards = write_shards(tmp_path / "set", {"train": [3, 2], "val": [2]}, shard_format=2)
    config = override(make_tiny_config(), ["schedule.steps=4", "checkpoint_every=2"])
    with serve(shards) as server:
        server.faults["train-00000.tar"] = [503, "reset"]
        mirrored = override(config, ["data.workers=1"])
        with pytest.raises(KilledError):
            train(mirrored, made(server, tmp_path), tmp_path / "run", device=CPU, on_step=kill_at(3))
    train(config, shards, tmp_path / "run", resume=True, device=CPU)
    train(config, shards, tmp_path / "whole", device=CPU)
    check_same_run(tmp_path / "run", tmp_path / "whole")


class Counting:
    """A dataset of ten samples that notes what was fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return 10

    def fetch(self, index: int) -> None:
        self.fetched.append(index)


def test_fetching_ahead_keeps_the_order_and_a_bounded_window() -> None:
    dataset = Counting()
    batches = [[2 * number, 2 * number + 1] for number in range(1000)]
    ahead = iter(FetchedAhead(batches, dataset))
    assert [next(ahead) for _ in range(100)] == batches[:100]
    time.sleep(0.05)
    assert 200 <= len(dataset.fetched) <= 200 + AHEAD + 2
    assert set(dataset.fetched) == set(range(10))
    assert list(FetchedAhead(batches[:7], dataset)) == batches[:7]


def test_scores_and_pictures_fetch_ahead_as_well(published: Loopback, packed: Path, tmp_path: Path) -> None:
    """When the first sample is handed out, the next ones are on their way; folders give the numbers as they are."""
    there, here = (ShardDataset(open_shards(folder, "train")) for folder in (made(published, tmp_path), packed))
    before, until = published.asked["train-00000.tar"], time.monotonic() + 20
    arriving = there.arriving(range(2))
    assert next(arriving) == 0
    while published.asked["train-00000.tar"] < before + 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert published.asked["train-00000.tar"] == before + 2
    assert list(arriving) == [1]
    assert list(here.arriving([1, 0])) == [1, 0]
    votes = [frequent_class(dataset) for dataset in (there, here)]
    assert (votes[0] == votes[1]).all()


def test_a_place_works_in_a_forked_process(published: Loopback) -> None:
    place = Place(published.address)
    assert place.size("val-00000.tar")
    child = os.fork()
    if child == 0:
        os._exit(0 if place.read("README.md", 10_000) else 1)
    assert os.waitpid(child, 0)[1] == 0
