"""A set of shards as it is published, format 2, with what mirrors and pulls make of it: whole, damaged, and read."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import protoocc
from pipelines.shard_upgrade import upgrade_shards
from protoocc.data import Keyframe, ShardDataset, ShardSet, open_shards
from protoocc.shards.mirror import mirror
from protoocc.shards.places import Place
from protoocc.shards.pull import pull
from protoocc.shards.remote import LEAST_LIMIT
from protoocc.shards.verify import verify
from schemas.errors import DataError, ProtoOccError
from tests.mutations import archives, mutate
from tests.mutations.targets import Target, digest
from tests.protoocc.conftest import make_depth_members, span_digest, write_shards, write_sums

TOP: Final = "published"
SET, CACHE, PULLED, NEW = f"{TOP}/set", f"{TOP}/cache", f"{TOP}/pulled", f"{TOP}/new"
SHARD: Final = "train-00000"
MEMBERS: Final[dict[str, mutate.Mutator]] = {
    "cam_front.jpg": mutate.damage_jpeg,
    "masks.png": mutate.damage_png,
    "occupancy.npz": archives.damage_npz,
    "depth.npz": archives.damage_npz,
    "meta.json": mutate.damage_json,
}
"""Kinds of members and how each is damaged."""
LIES: Final[tuple[Any, ...]] = (
    "../canary.txt", "../../canary.txt", "../../../canary.txt", "..", "a/b.tar", "/etc/passwd", "a\\b.tar", "a\0.tar",
    "manifest.json", "remote.json", "samples", ".lock", "n" * 300 + ".tar", "fe" * 32, "FE" * 32, None, "", 0, -1, 512,
    2**40, 2**62, 2**63 - 1, 1.5, [], {}, [10**9, 5], [512, 2**40], [512, 0], [-512, 512], ["x"] * 30_000,
    [str(number) for number in range(50_000)],
)  # fmt: skip
"""Values that a manifest or an index may hold to harm its reader."""


def make_published(folder: Path) -> list[Target]:
    """Writes a set, a mirror of it with all samples of its cache, and a pull that was killed."""
    shards = write_shards(folder / SET, {"train": [2], "val": [1]}, make=make_depth_members)
    upgrade_shards(shards)
    mirrored = mirror(Place(str(shards)), folder / CACHE, limit=LEAST_LIMIT)
    for split in ("train", "val"):
        read_split(open_shards(mirrored, split))
    (folder / PULLED).mkdir()
    (folder / PULLED / f"{SHARD}.tar.part").write_bytes((shards / f"{SHARD}.tar").read_bytes()[:5000])
    as_json = (mutate.damage_json, mutate.damage_json, mutate.damage_bytes)
    in_mirror = mirrored.relative_to(folder)
    sample = next(path for path in sorted((mirrored / "samples").rglob("*")) if path.is_file()).relative_to(folder)
    read_mirror = partial(read_mirror_of, mirrored=in_mirror)
    bytes_ = (mutate.damage_bytes,)
    return [
        Target("set manifest", f"{SET}/manifest.json", read_everywhere, as_json),
        Target("set index", f"{SET}/{SHARD}.index.json", read_everywhere, as_json, partial(tell_index, SET)),
        Target("set index, untold", f"{SET}/{SHARD}.index.json", read_everywhere, as_json),
        Target("set tar", f"{SET}/{SHARD}.tar", read_whole, bytes_, partial(tell_tar, SET)),
        Target("set tar, untold", f"{SET}/{SHARD}.tar", read_whole, bytes_),
        *(
            Target(f"set {name}", f"{SET}/{SHARD}.tar", read_whole, (change,), partial(tell_member, SET, name), whole)
            for name, change in MEMBERS.items()
            for whole in [member(shards, name)]
        ),
        *(
            Target(f"set {name}", f"{SET}/{name}", read_pulled, (change,), is_copied=True)
            for name, change in (
                ("README.md", mutate.damage_bytes),
                ("croissant.json", mutate.damage_json),
                ("SHA256SUMS", mutate.damage_bytes),
                (f"{SHARD}.idx", mutate.damage_bytes),
            )
        ),
        Target("part of a pull", f"{PULLED}/{SHARD}.tar.part", read_completed, bytes_, is_copied=True),
        Target("mirror remote.json", f"{in_mirror}/remote.json", read_mirror, (mutate.damage_json,)),
        Target("mirror manifest", f"{in_mirror}/manifest.json", read_mirror, as_json),
        Target("mirror index", f"{in_mirror}/{SHARD}.index.json", read_mirror, as_json),
        Target("cached sample", str(sample), read_mirror, bytes_, is_copied=True),
    ]


def read_everywhere(folder: Path) -> str:
    """By every reader and every transfer."""
    return first_of(folder, read_local, read_web, read_verified, read_pulled, read_mirrored)


def read_whole(folder: Path) -> str:
    """By every reader."""
    return first_of(folder, read_local, read_web, read_verified)


def first_of(folder: Path, *readers: Callable[[Path], str]) -> str:
    """Each reads, whatever the others say; those that take the set must see the same.

    Raises:
        ProtoOccError: of the first that refuses it.
    """
    found, errors = set(), []
    for reader in readers:
        try:
            found.add(reader(folder))
        except ProtoOccError as error:
            errors.append(error)
    found.discard("")
    assert len(found) <= 1, "readers see different data in one set"
    if errors:
        raise errors[0]
    return found.pop()


def read_local(folder: Path) -> str:
    """Here, by number, all splits."""
    return " ".join(read_split(open_shards(folder / SET, split)) for split in ("train", "val"))


def read_web(folder: Path) -> str:
    """As a stream of samples."""
    place = str(folder / SET)
    return " ".join(
        " ".join(
            digest_of(lambda name, sample=sample: sample.get(name)) for sample in protoocc.as_webdataset(place, split)
        )
        for split in ("train", "val")
    )


def read_verified(folder: Path) -> str:
    """By `verify`, which says what it found and stops at nothing."""
    faults = verify(at(folder / SET)).faults
    if faults:
        raise DataError(faults[0])
    return ""


def read_pulled(folder: Path) -> str:
    """Fetched into an empty folder, which is opened then."""
    shutil.rmtree(folder / NEW, ignore_errors=True)
    return _pull(folder)


def read_completed(folder: Path) -> str:
    """Fetched into the folder of a pull that was killed."""
    shutil.rmtree(folder / NEW, ignore_errors=True)
    shutil.copytree(folder / PULLED, folder / NEW)
    return _pull(folder)


def _pull(folder: Path) -> str:
    pull(at(folder / SET), folder / NEW, workers=1)
    return " ".join(read_split(open_shards(folder / NEW, split)) for split in ("train", "val"))


def read_mirrored(folder: Path) -> str:
    """Streamed through a mirror that is not there yet."""
    shutil.rmtree(folder / NEW, ignore_errors=True)
    mirrored = mirror(at(folder / SET), folder / NEW, limit=LEAST_LIMIT, workers=1)
    return " ".join(read_split(open_shards(mirrored, split)) for split in ("train", "val"))


def read_mirror_of(folder: Path, mirrored: Path) -> str:
    """Streamed through the mirror that is there, whatever state it is in."""
    return " ".join(read_split(open_shards(folder / mirrored, split)) for split in ("train", "val"))


def at(folder: Path) -> Place:
    """Files of this machine are what they are, so nobody has to wait for them."""
    return Place(str(folder), wait=_refuse_to_wait)


def _refuse_to_wait(seconds: float) -> None:
    raise AssertionError(f"would wait {seconds:.1f} s for a file of this machine")


def read_split(shards: ShardSet) -> str:
    """Every keyframe."""
    dataset, found = ShardDataset(shards), []
    for index in range(len(dataset)):
        keyframe = dataset[index]
        assert_possible(keyframe, dataset)
        found.append(digest_of(lambda name, keyframe=keyframe: getattr(keyframe, name)))
    return " ".join(found)


def digest_of(take: Callable[[str], Any]) -> str:
    """Of the arrays of a sample; ``take`` gives them by name."""
    names = ("images", "semantics", "mask_lidar", "mask_camera", "image_from_camera", "camera_from_ego")
    optional = ("global_from_ego", "segment_id", "depth_m", "pixel_classes")
    return digest(*(array for name in (*names, *optional) if (array := take(name)) is not None))


def assert_possible(keyframe: Keyframe, dataset: ShardDataset) -> None:
    """What every reader promises of a sample that it gives."""
    info = dataset.shards.dataset
    assert keyframe.images.shape == (len(info.cameras), *info.image_shape, 3)
    assert keyframe.semantics.shape == keyframe.mask_camera.shape == keyframe.mask_lidar.shape == info.grid.shape
    known = keyframe.semantics != info.classes.ignored
    assert (keyframe.semantics[known] < info.classes.num_classes).all()
    assert max(keyframe.mask_camera.max(), keyframe.mask_lidar.max()) <= 1
    if keyframe.depth_m is not None:
        assert np.isfinite(keyframe.depth_m).all() and 0 <= keyframe.depth_m.min() <= keyframe.depth_m.max() <= 2000
    for pose in (*keyframe.camera_from_ego, keyframe.global_from_ego):
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-2)
        assert np.linalg.det(pose[:3, :3]) > 0 and np.abs(pose[:3, 3]).max() < 3e7
    assert (keyframe.image_from_camera[:, (0, 1), (0, 1)] >= 1).all()
    assert np.isfinite(keyframe.image_from_camera).all()


def member(shards: Path, name: str) -> bytes:
    """A member of the second sample of `SHARD`."""
    offset, size = json.loads((shards / f"{SHARD}.index.json").read_text())["samples"][1]["members"][name]
    return (shards / f"{SHARD}.tar").read_bytes()[offset : offset + size]


def tell_index(where: str, folder: Path, data: bytes) -> None:
    """A damaged index whose checksum the manifest tells: what an attacker would do."""
    (folder / where / f"{SHARD}.index.json").write_bytes(data)
    _tell_manifest(folder / where, {"index_sha256": hashlib.sha256(data).hexdigest()})


def tell_tar(where: str, folder: Path, data: bytes) -> None:
    """A damaged tar that index and manifest tell, with the places that it had."""
    path = folder / where / f"{SHARD}.index.json"
    _tell(folder / where, json.loads(path.read_text()), data)


def tell_member(where: str, name: str, folder: Path, data: bytes) -> None:
    """The tar with other content of a member of its second sample; index and manifest tell it."""
    index = json.loads((folder / where / f"{SHARD}.index.json").read_text())
    old, stored = (folder / where / f"{SHARD}.tar").read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(index["samples"]):
            for other, (offset, size) in sample["members"].items():
                content = data if (number, other) == (1, name) else old[offset : offset + size]
                info = tarfile.TarInfo(f"{sample['key']}.{other}")
                info.size = len(content)
                sample["members"][other] = [tar.offset + tarfile.BLOCKSIZE, len(content)]
                tar.addfile(info, io.BytesIO(content))
    _tell(folder / where, index, stored.getvalue())


def _tell(shards: Path, index: dict[str, Any], tar: bytes) -> None:
    (shards / f"{SHARD}.tar").write_bytes(tar)
    own = {"filesize": max(len(tar), 1), "sha256": hashlib.sha256(tar).hexdigest()}
    own["md5sum"] = hashlib.md5(tar).hexdigest()
    samples = [{**sample, "sha256": span_digest(tar, sample["members"])} for sample in index["samples"]]
    tell_index(".", shards, json.dumps({**index, "samples": samples, **own}).encode())
    _tell_manifest(shards, own)


def _tell_manifest(shards: Path, fields: dict[str, Any]) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    for shard in manifest["shardlist"]:
        if shard["url"] == f"{SHARD}.tar":
            shard.update(fields)
    (shards / "manifest.json").write_text(json.dumps(manifest))
    write_sums(shards)
