"""Images of sets that hold none, made of the camera files of whoever has the raw data, each checked before it is used.

`images.json` in the folder of the shards says where the raw data lie; `join_images` writes it.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from schemas.errors import DataError
from schemas.files import write_bytes
from schemas.network_images import decode_photo, network_jpeg
from schemas.outside import Source, image_size, parse_json, read_bytes, shorten
from schemas.outside.limits import META_BYTES
from schemas.shards import IMAGES_KEY, ImageFile, ImageFiles, image_member

JOINED: Final = "images.json"
"""Says where the raw data lie."""
_REMEDY: Final = "Join the raw data that the shards were packed from: `protoocc join SHARDS --images ROOT`."


def read_root(folder: Path) -> Path | None:
    """Root of the raw data that a folder of shards was joined with; None where there is none.

    Raises:
        DataError: what says so is damaged.
    """
    path = folder / JOINED
    if not path.is_file():
        return None
    source = Source(str(path), _REMEDY)
    root = parse_json(source, read_bytes(source, path, META_BYTES)).get("root")
    if not isinstance(root, str) or not Path(root).is_absolute():
        raise source.damaged(f"expected the root of raw data, found {shorten(root)}")
    return Path(root)


def write_root(folder: Path, root: Path) -> None:
    """Says where the raw data lie."""
    write_bytes(folder / JOINED, (json.dumps({"root": str(root.resolve())}) + "\n").encode())


def joined_members(where: str, files: ImageFiles, meta: bytes, root: Path | None) -> dict[str, bytes]:
    """The images of a sample as members: the bytes that a set with images would hold.

    Args:
        where: how messages call the sample.
        files: how images are made.
        meta: its `meta.json`.
        root: of the raw data.

    Raises:
        DataError: nobody joined raw data, a camera file is missing, damaged or another one, or `meta.json` names none.
    """
    if root is None:
        raise DataError(f"{where}: the shards hold no images. {_REMEDY}")
    made = {}
    for channel, file in camera_files(where, files, meta).items():
        source = Source(f"{where}: camera file {root / file.path}", _REMEDY)
        data = checked_file(source, root, file)
        image = decode_photo(data, image_size(source, data), files.specs[channel])
        if image is None:
            raise source.damaged("the image cannot be decoded")
        made[image_member(channel)] = network_jpeg(image, files.specs[channel], files.jpeg_quality)
    return made


def camera_files(where: str, files: ImageFiles, meta: bytes) -> dict[str, ImageFile]:
    """Camera files that `meta.json` names, by channel.

    Raises:
        DataError: one is missing, or its path is no plain one below a root.
    """
    source = Source(f"{where}: meta.json", "Ask whoever published the shards.")
    named = parse_json(source, meta, META_BYTES).get(IMAGES_KEY)
    return {channel: _parse(source, named, channel) for channel in files.specs}


def _parse(source: Source, named: Any, channel: str) -> ImageFile:
    if not isinstance(named, Mapping) or channel not in named:
        raise source.damaged(f"'{IMAGES_KEY}' names no camera file of {channel}")
    try:
        file = ImageFile.model_validate(named[channel])
    except ValidationError as error:
        raise source.damaged(f"'{IMAGES_KEY}' of {channel}: {error.errors()[0]['msg']}") from error
    parts = file.path.split("/")
    if not file.path.isprintable() or "\\" in file.path or {"", ".", ".."} & set(parts):
        raise source.error(f"path {shorten(file.path)} of {channel} is none below the root of raw data")
    return file


def checked_file(source: Source, root: Path, file: ImageFile) -> bytes:
    """A camera file's bytes.

    Raises:
        DataError: it is missing, or has another size or SHA-256.
    """
    path = root / file.path
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise source.error(reason) from error
    if not stat.S_ISREG(found.st_mode):
        raise source.error("is no plain file")
    if found.st_size != file.size:
        raise source.error(f"has {found.st_size:,} bytes, the shards were packed from one of {file.size:,}")
    data = read_bytes(source, path, file.size)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise source.error(f"does not have the sha256 {file.sha256} of the file that the shards were packed from")
    return data
