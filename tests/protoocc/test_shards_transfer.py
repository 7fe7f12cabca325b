"""Shards that travel: pulled from a web server with faults, pushed to and pulled from S3 and folders, verified."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from protoocc.data import ShardDataset, open_shards
from protoocc.shards.places import TRIES, Place
from protoocc.shards.pull import pull
from protoocc.shards.push import push
from protoocc.shards.verify import verify
from schemas.errors import ConfigError, DataError, StageError
from tests.protoocc.loopback import Loopback, serve

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning", "ignore::DeprecationWarning"
)
"""fsspec leaves the connection of an answer that is an error to the garbage collector."""

FILES = ("train-00000.tar", "train-00001.tar", "val-00000.tar")


def tree(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def at(address: str) -> Place:
    """A place that does not wait between tries."""
    return Place(address, wait=lambda seconds: None)


@pytest.fixture
def published(own_shards: Path) -> Iterator[Loopback]:
    with serve(own_shards) as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of moto's S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    names = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    import boto3

    boto3.client("s3").create_bucket(Bucket="shards")
    yield "s3://shards"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


def test_pulls_a_whole_set_to_the_same_bytes(published: Loopback, own_shards: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = pull(at(published.address), tmp_path / "mine", update=lambda *place: seen.append(place))
    size = sum((own_shards / name).stat().st_size for name in FILES)
    assert (done.shards, done.samples, done.moved, done.kept) == (3, 7, size, 0)
    assert seen[-1] == (size, size)
    assert tree(tmp_path / "mine") == tree(own_shards)
    assert len(ShardDataset(open_shards(tmp_path / "mine", "train"))[0].images) == 2


def test_a_second_pull_moves_nothing(published: Loopback, tmp_path: Path) -> None:
    first = pull(at(published.address), tmp_path / "mine")
    published.sent = 0
    again = pull(at(published.address), tmp_path / "mine")
    assert (again.moved, again.kept) == (0, first.moved)
    assert not [name for name in FILES if published.asked[name] > 1]


@pytest.mark.parametrize(
    "faults",
    [[503, 503, 429], ["reset", "reset"], ["short"], ["reset", 500, "short", 408]],
    ids=["busy", "reset", "short", "all"],
)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_faults_of_the_line_change_no_byte(
    published: Loopback, own_shards: Path, tmp_path: Path, faults: list[int | str], ranges: bool
) -> None:
    published.ranges = ranges
    for name in (*FILES, "manifest.json", "val-00000.index.json"):
        published.faults[name] = list(faults)
    pull(at(published.address), tmp_path / "mine")
    assert tree(tmp_path / "mine") == tree(own_shards)


def test_a_wrong_byte_is_met_once_and_told(published: Loopback, own_shards: Path, tmp_path: Path) -> None:
    published.faults["train-00001.tar"] = ["wrong"]
    with pytest.raises(DataError, match=r"/set/train-00001.tar: its bytes do not have the sha256"):
        pull(at(published.address), tmp_path / "mine")
    assert not (tmp_path / "mine/manifest.json").exists()
    assert not (tmp_path / "mine/train-00001.tar").exists()
    pull(at(published.address), tmp_path / "mine")
    assert tree(tmp_path / "mine") == tree(own_shards)


def test_goes_on_where_a_killed_pull_was(published: Loopback, own_shards: Path, tmp_path: Path) -> None:
    whole = (own_shards / "train-00000.tar").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train-00000.tar.part").write_bytes(whole[:5000])
    done = pull(at(published.address), tmp_path / "mine", splits=["train"], numbers=range(0, 1))
    assert (done.moved, done.kept) == (len(whole) - 5000, 5000)
    assert (tmp_path / "mine/train-00000.tar").read_bytes() == whole


@pytest.mark.parametrize("left", [b"x" * 4000, b"x" * 10**7], ids=["other bytes", "too many"])
def test_a_part_of_other_bytes_is_fetched_anew(
    published: Loopback, own_shards: Path, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train-00000.tar.part").write_bytes(left)
    pull(at(published.address), tmp_path / "mine")
    assert tree(tmp_path / "mine") == tree(own_shards)


def test_a_server_that_never_answers_is_given_up(published: Loopback, tmp_path: Path) -> None:
    waits: list[float] = []
    published.faults["val-00000.tar"] = [503] * 50
    with pytest.raises(StageError, match=rf"val-00000.tar: given up after {TRIES} tries in a row .*503.*goes on where"):
        pull(Place(published.address, wait=waits.append), tmp_path / "mine", splits=["val"])
    assert waits == sorted(waits)
    assert 10 < sum(waits) < 40


def test_what_may_not_be_read_is_not_tried_again(published: Loopback, tmp_path: Path) -> None:
    published.faults["manifest.json"] = [403]
    with pytest.raises(DataError, match=r"manifest.json: cannot be opened \(the server answered 403 Forbidden\)"):
        pull(at(published.address), tmp_path / "mine")
    assert published.asked["manifest.json"] == 1


def test_a_part_of_a_set_can_be_used_and_completed(published: Loopback, own_shards: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    pull(at(published.address), mine, splits=["val"])
    assert len(open_shards(mine, "val").samples) == 2
    with pytest.raises(DataError, match="no split 'train'; known: val"):
        open_shards(mine, "train")
    pull(at(published.address), mine, splits=["train"], numbers=range(1, 2))
    assert [sample.token for _, sample in open_shards(mine, "train").samples] == ["token-3", "token-4"]
    assert not verify(Place(str(mine))).faults
    pull(at(published.address), mine)
    assert tree(mine) == tree(own_shards)


def test_another_set_is_not_mixed_in(published: Loopback, shards_without_lidar: Path, tmp_path: Path) -> None:
    pull(at(published.address), tmp_path / "mine")
    with serve(shards_without_lidar) as other, pytest.raises(ConfigError, match="holds other shards"):
        pull(at(other.address), tmp_path / "mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ["test"]}, "no split 'test' in tiny; known: train, val"),
        ({"numbers": range(5, 9)}, r"no shards range\(5, 9\)"),
    ],
)
def test_unknown_parts_are_refused(published: Loopback, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pull(at(published.address), tmp_path / "mine", **options)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/x", "expected a folder or an address that starts with http://, https://, s3://, gs://, hf://"),
        ("https://user:hunter2@host/x", "https://host/x: an address holds no name, password or query"),
        ("https://host/x?token=hunter2", "https://host/x: an address holds no name, password or query"),
        ("simplecache::https://host/x", "expected a folder or an address"),
    ],
)
def test_addresses(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Place(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["../train-00000.tar", "/etc/passwd", "a\\b.tar", ".."])
def test_names_that_leave_the_folder_are_refused(
    published: Loopback, own_shards: Path, tmp_path: Path, name: str
) -> None:
    path = own_shards / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shardlist"][0]["url"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="no plain file name"):
        pull(at(published.address), tmp_path / "mine")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "shards" not in path.parts]


def test_pushed_to_s3_and_pulled_again(s3: str, own_shards: Path, tmp_path: Path) -> None:
    place = f"{s3}/tiny"
    first = push(own_shards, at(place))
    assert (first.moved > 0, first.kept) == (True, 0)
    again = push(own_shards, at(place))
    assert (again.moved, again.kept) == (0, first.moved)
    assert not verify(at(place)).faults
    pull(at(place), tmp_path / "mine")
    assert tree(tmp_path / "mine") == tree(own_shards)


def test_a_killed_push_goes_on(s3: str, own_shards: Path, tmp_path: Path) -> None:
    place = at(f"{s3}/killed")
    place.put("train-00000.tar", own_shards / "train-00000.tar")
    place.put("train-00000.index.json", own_shards / "train-00000.index.json")
    place.put("train-00001.tar", own_shards / "train-00001.tar")  # without its index: nobody knows whether it is right
    with pytest.raises(DataError, match="holds no shards"):
        pull(place, tmp_path / "mine")
    assert push(own_shards, place).kept == (own_shards / "train-00000.tar").stat().st_size
    assert not verify(place).faults


def test_push_to_a_folder(own_shards: Path, tmp_path: Path) -> None:
    push(own_shards, Place(str(tmp_path / "there")))
    assert tree(tmp_path / "there") == tree(own_shards)


def test_push_refuses_damaged_shards_and_other_sets(
    own_shards: Path, shards_without_lidar: Path, tmp_path: Path
) -> None:
    there = Place(str(tmp_path / "there"))
    push(shards_without_lidar, there)
    with pytest.raises(ConfigError, match="holds other shards"):
        push(own_shards, there)
    tar = own_shards / "val-00000.tar"
    tar.write_bytes(b"\1" + tar.read_bytes()[1:])
    with pytest.raises(DataError, match=r"val-00000.tar: has sha256 .* changed.*Nothing was sent"):
        push(own_shards, Place(str(tmp_path / "empty")))
    assert not (tmp_path / "empty").exists()


def test_web_servers_are_not_written(published: Loopback, own_shards: Path) -> None:
    shutil.copy(own_shards / "manifest.json", own_shards / "kept.json")
    with pytest.raises(ConfigError, match="web servers are read only"):
        at(published.address).put("manifest.json", own_shards / "kept.json")


def test_errors_hold_no_credentials(s3: str, own_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pull(at(f"{s3}/nothing-here"), tmp_path / "mine")
    assert "a-secret-key" not in str(caught.value)


def test_verify_names_what_is_wrong(packed: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(packed, shards)
    assert verify(Place(str(shards))).faults == ()
    tar = shards / "val-00000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 4] ^= 1
    tar.write_bytes(data)
    (faults,) = verify(Place(str(shards))).faults
    assert "val-00000.tar: sample synth-0001-0000 has sha256" in faults
    tar.write_bytes(data[:-512])
    (faults,) = verify(Place(str(shards))).faults
    assert f"val-00000.tar: has {len(data) - 512:,} bytes, manifest.json says {len(data):,} bytes" in faults
    tar.unlink()
    assert "val-00000.tar: not found" in verify(Place(str(shards))).faults[0]
    assert not verify(Place(str(shards)), splits=("train",)).faults


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("README.md", b"x", "README.md: has sha256"),
        ("croissant.json", None, "croissant.json: not found, SHA256SUMS lists it"),
        ("val-00000.idx", b"v1.2 0\n", "val-00000.idx: has sha256"),
        ("SHA256SUMS", None, "SHA256SUMS: not found"),
        ("SHA256SUMS", b"no sums\n", "SHA256SUMS is damaged: b'no sums' is no checksum and name"),
        ("SHA256SUMS", b"%s  val-00000.tar\n" % (b"0" * 64), "says that val-00000.tar has sha256 0000"),
    ],
)
def test_verify_reads_small_files_too(
    packed: Path, tmp_path: Path, name: str, change: bytes | None, message: str
) -> None:
    shards = Path(shutil.copytree(packed, tmp_path / "shards"))
    if change is None:
        (shards / name).unlink()
    else:
        (shards / name).write_bytes(change)
    (fault,) = verify(Place(str(shards)), splits=("val",)).faults
    assert message in fault


def test_a_part_of_a_set_is_whole(packed: Path, tmp_path: Path) -> None:
    pull(Place(str(packed)), tmp_path / "mine", splits=["val"])
    assert not (tmp_path / "mine/croissant.json").exists()
    assert verify(Place(str(tmp_path / "mine"))).faults == ()
