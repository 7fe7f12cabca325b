"""A tar that ends anywhere: what readers give are whole samples, and where it ends they say so."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import protoocc
from protoocc.data import ShardDataset, open_shards
from protoocc.shards.mirror import mirror
from protoocc.shards.places import Place
from protoocc.shards.remote import LEAST_LIMIT
from schemas.errors import DataError, ProtoOccError
from tests.mutations.published import digest_of
from tests.protoocc.conftest import write_shards
from tests.protoocc.loopback import serve

TAR = "train-00000.tar"
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning"
)
"""fsspec leaves the connection of an answer that is an error to the garbage collector."""


@pytest.fixture(params=[1, 2])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A set of each format, to be cut."""
    return write_shards(tmp_path / "set", {"train": [2]}, shard_format=request.param)


def cuts(size: int, step: int) -> Iterator[int]:
    """Places at and around the starts of blocks, and odd ones between them."""
    for block in range(0, size, 512 * step):
        yield from (place for place in (block - 1, block, block + 1, block + 201) if 0 <= place < size)


def whole_samples(folder: Path) -> list[str]:
    dataset = ShardDataset(open_shards(folder, "train"))
    return [_of(dataset, index) for index in range(len(dataset))]


def _of(dataset: ShardDataset, index: int) -> str:
    keyframe = dataset[index]
    return digest_of(lambda name: getattr(keyframe, name))


def taken(samples: Callable[[], Iterator[Any]]) -> tuple[list[str], ProtoOccError | None]:
    """What came before an error, and the error."""
    found: list[str] = []
    try:
        for sample in samples():
            found.append(digest_of(sample.get))
    except ProtoOccError as error:
        return found, error
    return found, None


def no_wait(seconds: float) -> None:
    pass


def test_read_by_number(own: Path) -> None:
    """A tar that is cut is not opened; one that is cut while it is open gives the samples before the cut."""
    whole, data = whole_samples(own), (own / TAR).read_bytes()
    dataset = ShardDataset(open_shards(own, "train"))
    ends = [sample.span[1] for _, sample in dataset.shards.samples]
    for cut in cuts(len(data), 1):
        (own / TAR).write_bytes(data[:cut])
        with pytest.raises(DataError, match=rf"{TAR} has {cut} bytes, manifest.json says {len(data)}: truncated"):
            open_shards(own, "train")
        for index, sample in enumerate(whole):
            if cut >= ends[index]:
                assert _of(dataset, index) == sample
            elif cut < ends[index] - 512:  # the last block may be filled up with zeros that nobody reads
                with pytest.raises(DataError, match=rf"{TAR}, sample scene-train-00000-000{index}: '.*' ends after"):
                    dataset[index]


def test_read_as_a_web_dataset(own: Path) -> None:
    whole, data = whole_samples(own), (own / TAR).read_bytes()
    ends = [sample.span[1] for _, sample in open_shards(own, "train").samples]
    for cut in cuts(len(data), 1):
        (own / TAR).write_bytes(data[:cut])
        found, error = taken(lambda: iter(protoocc.as_webdataset(own, "train")))
        assert found == whole[: sum(cut >= end for end in ends)]
        assert error is not None and f"{TAR}" in str(error)


def test_streamed(tmp_path: Path) -> None:
    """From a server whose tar was cut after its mirror was made."""
    own = write_shards(tmp_path / "set", {"train": [2]}, shard_format=2)
    whole, data = whole_samples(own), (own / TAR).read_bytes()
    with serve(own) as server:
        folder = mirror(Place(server.address), tmp_path / "cache", limit=LEAST_LIMIT)
        dataset = ShardDataset(open_shards(folder, "train"))
        dataset._reader.cache.place._wait = no_wait
        ends = [sample.span[1] for _, sample in dataset.shards.samples]
        for cut in cuts(ends[1], 12):
            (own / TAR).write_bytes(data[:cut])
            shutil.rmtree(folder / "samples", ignore_errors=True)
            for index, sample in enumerate(whole):
                if cut >= ends[index]:
                    assert _of(dataset, index) == sample
                else:
                    with pytest.raises(ProtoOccError, match=rf"{TAR}: given up after 6 tries"):
                        dataset[index]
            held = [path for path in (folder / "samples").glob("*/*") if path.is_file()]
            assert len(held) == sum(cut >= end for end in ends)
