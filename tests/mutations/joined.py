"""A set of shards without images, joined with camera files: whole, damaged, and read."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Final

from pipelines.shard_upgrade import upgrade_shards
from protoocc.data import open_shards
from protoocc.shards.joined import JOINED, write_root
from protoocc.shards.verify import verify
from schemas.classes import ClassTable
from schemas.errors import DataError
from schemas.images import ImageSpec
from schemas.shards import META_MEMBER, ImageFiles, image_member
from tests.mutations import mutate
from tests.mutations.published import SHARD, TOP, at, member, read_split, tell_member
from tests.mutations.targets import Target
from tests.protoocc.conftest import CAMERAS, HEIGHT, WIDTH, make_members, write_shards

BARE, RAW = f"{TOP}/bare", f"{TOP}/raw"
FILES: Final = ImageFiles(
    specs={name: ImageSpec(resize=None, crop=(0, 0, WIDTH, HEIGHT)) for name in CAMERAS}, jpeg_quality=95
)


def make_joined(folder: Path) -> list[Target]:
    """Writes a set, its camera files, and where they lie."""
    raw = folder / RAW
    raw.mkdir(parents=True)
    shards = write_shards(folder / BARE, {"train": [2], "val": [1]}, make=partial(_without_images, raw))
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["image_files"] = FILES.model_dump(mode="json")
    (shards / "manifest.json").write_text(json.dumps(manifest))
    upgrade_shards(shards)
    write_root(shards, raw)
    meta = member(shards, META_MEMBER)
    return [
        Target("bare manifest", f"{BARE}/manifest.json", read_joined, (mutate.damage_json, mutate.damage_bytes)),
        Target(
            "bare meta.json", f"{BARE}/{SHARD}.tar", read_joined, (mutate.damage_json,),
            partial(tell_member, BARE, META_MEMBER), meta,
        ),
        Target("bare images.json", f"{BARE}/{JOINED}", read_bare, (mutate.damage_json, mutate.damage_bytes)),
        Target("camera file", f"{RAW}/1-{CAMERAS[0]}", read_joined, (mutate.damage_jpeg,)),
    ]  # fmt: skip


def read_joined(folder: Path) -> str:
    """With the camera files of this folder."""
    write_root(folder / BARE, folder / RAW)
    return read_bare(folder)


def read_bare(folder: Path) -> str:
    """By number, with the camera files that the set says, and by `verify`."""
    found = " ".join(read_split(open_shards(folder / BARE, split)) for split in ("train", "val"))
    faults = verify(at(folder / BARE)).faults
    if faults:
        raise DataError(faults[0])
    return found


def _without_images(raw: Path, number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
    """Members of a sample whose images become camera files."""
    members, files = make_members(number, token, classes), {}
    for channel in CAMERAS:
        data = members.pop(image_member(channel))
        name = f"{number}-{channel}"
        (raw / name).write_bytes(data)
        files[channel] = {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    meta = {**json.loads(members[META_MEMBER]), "images": files}
    return members | {META_MEMBER: json.dumps(meta).encode()}
