"""What a mirror says of the shards whose tars lie elsewhere (`protoocc.shards.mirror` makes one)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import META_BYTES

REMOTE: Final = "remote.json"
"""Says that a folder is a mirror, of which address and with what limit of its cache."""
LEAST_LIMIT: Final = 64 * 2**20


@dataclass(frozen=True)
class Remote:
    """Where the tars of a mirror lie, and how much of them may be kept here.

    Attributes:
        address: as `Place` takes it.
        folder: of the mirror.
        limit: bytes of all samples in the cache.
    """

    address: str
    folder: Path
    limit: int


def read_remote(folder: Path) -> Remote | None:
    """Where the tars of a folder of shards lie; None where they lie in it.

    Raises:
        DataError: what says so is damaged.
    """
    path = folder / REMOTE
    if not path.is_file():
        return None
    source = Source(str(path), "Remove the folder; the next command makes it anew.")
    raw = parse_json(source, read_bytes(source, path, META_BYTES))
    address, limit = raw.get("address"), raw.get("limit")
    if not isinstance(address, str) or type(limit) is not int or limit < LEAST_LIMIT:
        raise source.damaged("expected an address and a limit")
    return Remote(address, folder, limit)
