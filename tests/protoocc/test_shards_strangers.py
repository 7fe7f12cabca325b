"""What strangers may write into a set of shards to harm its reader, one test for each: refused, named, not obeyed."""

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protoocc
from pipelines.shard_upgrade import upgrade_shards
from protoocc.shards.mirror import mirror
from protoocc.shards.places import Place
from protoocc.shards.pull import choose_shards, pull
from protoocc.shards.remote import LEAST_LIMIT
from protoocc.shards.verify import verify
from schemas.errors import ConfigError, DataError, ProtoOccError
from schemas.outside import Source, check_jpeg, check_png, read_npz
from schemas.shard_checks import parse_manifest
from tests.mutations.isolated import run_isolated
from tests.mutations.published import (
    SET,
    SHARD,
    at,
    member,
    read_local,
    read_pulled,
    read_web,
    tell_index,
    tell_member,
    tell_tar,
)
from tests.protoocc.conftest import make_depth_members, make_pixel_members, write_shards
from tests.protoocc.loopback import serve

SECOND = rf"{SHARD}.tar, sample scene-{SHARD}-0001"
SOURCE = Source("file")
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning"
)
"""fsspec leaves the connection of an answer that is an error to the garbage collector."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds a set of format 2, beside a file that nobody may touch."""
    write_shards(tmp_path / "place" / SET, {"train": [2], "val": [1]}, make=make_depth_members, shard_format=2)
    (tmp_path / "canary.txt").write_text("untouched")
    return tmp_path / "place"


def edit_manifest(place: Path, change: Callable[[Any], object]) -> None:
    path = place / SET / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_index(place: Path, change: Callable[[Any], object]) -> None:
    value = json.loads((place / SET / f"{SHARD}.index.json").read_text())
    change(value["samples"])
    tell_index(SET, place, json.dumps(value).encode())


def edit_header(place: Path, offset: int, value: bytes) -> None:
    """A field of the header in front of the second sample's first image; index and manifest tell the new sums."""
    places = json.loads((place / SET / f"{SHARD}.index.json").read_text())["samples"][1]["members"]
    tar = bytearray((place / SET / f"{SHARD}.tar").read_bytes())
    start = places["cam_front.jpg"][0] - 512 + offset
    tar[start : start + len(value)] = value
    tell_tar(SET, place, bytes(tar))


def mirrored(place: Path) -> Path:
    return mirror(at(place / SET), place / "mirrors", limit=LEAST_LIMIT)


def refused_by_all(place: Path, message: str) -> None:
    """By every reader and every transfer; none leaves a file outside the folders that it was given."""
    before = {path for path in place.parent.rglob("*") if path.is_file()}
    pulled = partial(pull, at(place / SET), place / "mine")
    for read in (read_local, read_web, verified, lambda _: pulled(), mirrored):
        with pytest.raises(DataError, match=message):
            read(place)
    added = {path for path in place.parent.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(place) for path in added)
    assert (place.parent / "canary.txt").read_text() == "untouched"


def verified(place: Path) -> None:
    for fault in verify(at(place / SET)).faults:
        raise DataError(fault)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"L", b"K", b"x", b"g", b"S"])
def test_links_devices_and_long_names_in_a_tar_are_refused(place: Path, kind: bytes) -> None:
    """Types of tar: hard and symbolic link, devices, folder, pipe, headers of GNU and pax, sparse file."""
    edit_header(place, 156, kind)
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}: the index has 'cam_front.jpg' .* of type b'{kind.decode()}'"):
            read(place)
    (fault,) = verify(at(place / SET)).faults
    assert f"{SHARD}.tar: sample scene-{SHARD}-0001: the index has 'cam_front.jpg'" in fault


@pytest.mark.parametrize(("offset", "name"), [(0, b"../../canary.txt\0"), (345, b"../.."), (124, b"77777777777")])
def test_names_and_sizes_in_a_tar_must_be_those_of_the_index(place: Path, offset: int, name: bytes) -> None:
    """The name, the prefix that other programs put before it, and the size."""
    edit_header(place, offset, name)
    for read in (read_local, read_web, verified):
        with pytest.raises(DataError, match=rf"sample scene-{SHARD}-0001: the index has 'cam_front.jpg' where"):
            read(place)


@pytest.mark.parametrize("field", ["url", "index"])
@pytest.mark.parametrize(
    "name",
    [
        "../canary.txt", "..", "/etc/passwd", "a\\b.tar", "a\0.tar", "a\n.tar", "", "manifest.json", "remote.json",
        "README.md", "SHA256SUMS", "samples", ".lock", "val-00000.tar.part", "n" * 197 + ".tar", "é" * 120 + ".tar",
        "n" * 190 + ".index.json", f"{SHARD}.idx",
    ],
)  # fmt: skip
def test_names_of_other_files_are_refused(place: Path, field: str, name: str) -> None:
    """Outside the folder, or those of other files in it: `remote.json` would send its readers elsewhere."""
    edit_manifest(place, lambda manifest: manifest["shardlist"][0].update({field: name}))
    refused_by_all(place, "is no plain file name|is none of a shard")


def test_a_checksum_that_is_a_path_is_refused(place: Path) -> None:
    """Samples of a mirror are files named by their checksum, and files with other contents are removed from it."""
    for path in ("../../../../canary.txt", str(place.parent / "canary.txt"), "", "FE" * 32, "fe" * 31):
        edit_index(place, lambda samples, path=path: samples[0].update(sha256=path))
        refused_by_all(place, "samples.0.sha256")


@pytest.mark.parametrize("path", ["../../canary", "/tmp/canary", "..", ""])
def test_a_fingerprint_that_is_a_path_is_refused(place: Path, path: str) -> None:
    """A mirror's folder is named by it."""
    edit_manifest(place, lambda manifest: manifest.update(formerly=path))
    refused_by_all(place, "formerly")


def test_format_2_without_checksums_is_refused(place: Path) -> None:
    edit_index(place, lambda samples: samples[1].update(sha256=None))
    refused_by_all(place, rf"sample scene-{SHARD}-0001 has no sha256")
    edit_manifest(place, lambda manifest: manifest["shardlist"][0].update(index_sha256=None))
    refused_by_all(place, rf"{SHARD}.tar has no index_sha256")


def test_twice_and_overlapping_is_refused(place: Path) -> None:
    whole = (place / SET / f"{SHARD}.index.json").read_bytes()
    for change, message in (
        (lambda s: s.__setitem__(1, s[0]), "sample 'scene-.*0000' is listed 2 times"),
        (lambda s: s[1].update(token=s[0]["token"]), "token 'token-0' is listed 2 times"),
        (lambda s: s[1].update(members=s[0]["members"]), "lies outside the shard of|in another member"),
        (lambda s: s[0]["members"].update({"masks.png": [512, 600]}), "in another member or without a header"),
    ):
        tell_index(SET, place, whole)
        edit_index(place, change)
        refused_by_all(place, message)


def test_members_of_a_sample_that_lie_apart_are_refused(place: Path) -> None:
    """Its bytes are fetched as one, so a member at each end of a tar would be all of the tar."""

    def swap(samples: list[Any]) -> None:
        first, second = (sample["members"] for sample in samples)
        first["cam_front.jpg"], second["cam_front.jpg"] = second["cam_front.jpg"], first["cam_front.jpg"]

    edit_index(place, swap)
    refused_by_all(place, "does not follow the sample's other members")


def test_members_beyond_their_limit_are_refused(place: Path) -> None:
    edit_index(place, lambda samples: samples[0]["members"].update({"masks.png": [512, 2**40]}))
    refused_by_all(place, rf"sample scene-{SHARD}-0000: member 'masks.png' has 1,099,511,627,776 bytes, at most")


@pytest.mark.parametrize("lie", [{"filesize": 2**62}, {"nsamples": 2**62}, {"filesize": 1}])
def test_lies_of_a_manifest_allocate_nothing(place: Path, lie: dict[str, int]) -> None:
    edit_manifest(place, lambda manifest: manifest["shardlist"][0].update(lie))
    pulled = partial(pull, at(place / SET), place / "mine")
    readers: tuple[Callable[[], Any], ...] = (
        partial(read_local, place), partial(read_web, place), partial(verified, place), pulled,
        partial(upgrade_shards, place / SET),
    )  # fmt: skip
    edit_manifest(place, lambda manifest: manifest.update(shard_format=1))  # so that upgrade_shards reads it
    for read in readers:
        outcome = run_isolated(lambda read=read: str(read()))
        assert outcome.kind == "refused", outcome
        assert outcome.extra_mb < 50 and outcome.wall_s < 5


def test_values_that_repeat_are_counted_once(place: Path) -> None:
    """Time does not grow with the square of what a file lists."""
    raw = json.loads((place / SET / "manifest.json").read_text())

    def many_cameras() -> str:
        channels = [f"c{number}" for number in range(40_000)]
        data = json.dumps({**raw, "dataset": {**raw["dataset"], "cameras": channels}}).encode()
        return str(parse_manifest(SOURCE, data))

    def many_splits() -> str:
        shards = [
            {**raw["shardlist"][0], "split": str(number), "url": f"{number}.tar", "index": f"{number}.index.json"}
            for number in range(12_000)
        ]
        manifest = parse_manifest(SOURCE, json.dumps({**raw, "shardlist": shards}).encode())
        return str(len(choose_shards(manifest, [], None)))

    def many_names() -> str:
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w") as archive:
            archive.writestr("a.npy", b"")
            for number in range(30_000):
                archive.filelist.append(copy.copy(archive.filelist[0]))
                archive.filelist[-1].filename = str(max(number, 1))
        return str(read_npz(SOURCE, stored.getvalue(), ["a"], 10))

    for work, kind in ((many_cameras, "refused"), (many_splits, "accepted"), (many_names, "refused")):
        outcome = run_isolated(work)
        assert outcome.kind == kind, outcome
        assert outcome.seconds < 5


def test_image_targets_are_no_web_dataset(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "targets", {"train": [1]}, make=make_pixel_members)
    with pytest.raises(DataError, match="holds image targets; expected occupancy shards"):
        protoocc.as_webdataset(shards, "train")


def test_jpegs_of_another_size_than_declared_are_refused(place: Path) -> None:
    data = member(place / SET, "cam_front.jpg")
    frame = data.index(b"\xff\xc0") + 5
    huge = data[:frame] + b"\xff\xff\xff\xff" + data[frame + 4 :]
    tell_member(SET, "cam_front.jpg", place, huge)
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}, CAM_FRONT: declares 65535 x 65535 pixels"):
            read(place)
    side = (8192).to_bytes(2, "big")
    with pytest.raises(DataError, match=r"cannot hold the 67,108,864 pixels"):
        check_jpeg(SOURCE, data[:frame] + side + side + data[frame + 4 :], (8192, 8192))


def test_pngs_that_cannot_hold_their_pixels_are_refused(place: Path) -> None:
    data = member(place / SET, "masks.png")
    side = (8192).to_bytes(4, "big")
    bomb = data[:16] + side + side + data[24:]
    tell_member(SET, "masks.png", place, bomb)
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}, masks.png: is 16-bit \(8192, 8192\) with 1 channels"):
            read(place)
    with pytest.raises(DataError, match=r"cannot hold the 134,217,728 pixels or bytes"):
        check_png(SOURCE, bomb, (8192, 8192), bits=16)
    text = b"\0\0\0\4zTXtbomb" + bytes(4)
    with pytest.raises(DataError, match="has a chunk b'zTXt' of 4 bytes that is not of its pixels"):
        check_png(SOURCE, data[:33] + text + data[33:], (64, 64), bits=16)


def test_arrays_larger_than_the_grid_are_refused(place: Path) -> None:
    stored = io.BytesIO()
    np.savez_compressed(stored, semantics=np.zeros(10**7, np.uint8))
    tell_member(SET, "occupancy.npz", place, stored.getvalue())
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}: occupancy.npz, 'semantics': declares 10,000,128 bytes"):
            read(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta | {"x": "@"}, "nested more than 64 deep"),
        (lambda meta: meta | {"image_from_camera": [[[float("nan")] * 3] * 3] * 2}, "NaN is no finite number"),
        (lambda meta: meta | {"camera_from_ego": [[[float("inf")] * 4] * 4] * 2}, "Infinity is no finite number"),
        (lambda meta: meta | {"global_from_ego": [[1e300] * 4] * 4}, "global_from_ego holds no rotation"),
        (lambda meta: meta | {"segment_count": [1, 1]}, "CAM_FRONT has segment 303, meta.json says there are 1"),
    ],
)
def test_depths_and_numbers_of_metadata(place: Path, change: Callable[[Any], Any], message: str) -> None:
    meta = json.loads(member(place / SET, "meta.json"))
    text = json.dumps(change(meta)).replace('"@"', "[" * 200 + "]" * 200)
    tell_member(SET, "meta.json", place, text.encode())
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}.*{message}"):
            read(place)


def test_depth_labels_outside_the_table_are_refused(place: Path) -> None:
    stored = io.BytesIO()
    with np.load(io.BytesIO(member(place / SET, "depth.npz"))) as archive:
        np.savez_compressed(stored, **{**archive, "label": np.array([4, 40, 255], np.uint8)})
    tell_member(SET, "depth.npz", place, stored.getvalue())
    for read in (read_local, read_web):
        with pytest.raises(DataError, match=rf"{SECOND}: depth.npz holds class 40; the class table has 0..17"):
            read(place)


@pytest.mark.parametrize("name", ["manifest.json", f"{SHARD}.index.json", f"{SHARD}.tar"])
def test_pipes_devices_and_folders_are_not_waited_for(place: Path, name: str) -> None:
    path = place / SET / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        path.unlink(missing_ok=True) if not path.is_dir() else path.rmdir()
        make(path)
        for read in (read_local, read_web, read_pulled, verified):
            outcome = run_isolated(lambda read=read: str(read(place)))
            assert outcome.kind == "refused" and outcome.wall_s < 5 and outcome.extra_mb < 50, outcome


def test_a_link_in_place_of_a_part_is_not_followed(place: Path) -> None:
    (place / "mine").mkdir()
    (place / f"mine/{SHARD}.tar.part").symlink_to(place.parent / "canary.txt")
    pull(at(place / SET), place / "mine")
    assert (place.parent / "canary.txt").read_text() == "untouched"
    assert (place / f"mine/{SHARD}.tar").read_bytes() == (place / SET / f"{SHARD}.tar").read_bytes()


def test_a_server_that_sends_more_than_declared_is_cut(place: Path) -> None:
    """Ten megabytes behind each tar, and a manifest of over eight."""
    with serve(place / SET) as server:
        for ranges in (True, False):
            server.ranges = ranges
            server.faults[f"{SHARD}.tar"] = server.faults["val-00000.tar"] = ["long"]
            mine = place / f"mine-{ranges}"
            pull(Place(server.address), mine)
            assert (mine / f"{SHARD}.tar").read_bytes() == (place / SET / f"{SHARD}.tar").read_bytes()
        server.faults["manifest.json"] = ["long"]
        with pytest.raises(DataError, match="manifest.json: is larger than the 8,388,608 bytes"):
            pull(Place(server.address), place / "other")


@pytest.mark.parametrize("address", ["http://[", "http://[::1", "https://[x]/set"])
def test_addresses_that_no_host_has_are_refused(place: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="a host that none can have"):
        Place(address)
    (place / SET / "remote.json").write_text(json.dumps({"address": address, "limit": LEAST_LIMIT}))
    with pytest.raises(ProtoOccError, match="a host that none can have"):
        read_local(place)
