"""Shards at an address: where their mirrors lie on this machine, and how much they may keep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cli.say import name_of, say

CACHE: Final = "PROTOOCC_CACHE"
"""Folder of mirrors; `protoocc` below the user's cache folder by default."""
LIMIT: Final = "PROTOOCC_CACHE_GB"
"""Gigabytes of samples that the mirror of a set keeps at most."""
_DEFAULT_GB: Final = 20.0


def mirrored(address: str) -> Path:
    """The mirror of a set of shards, made or brought up to date.

    Raises:
        ConfigError: the set cannot be streamed, or the limit is no number.
        DataError: it is damaged or unsafe.
        StageError: the line broke too often.
    """
    from protoocc.shards.mirror import mirror
    from protoocc.shards.places import Place

    place, limit = Place(address), _limit()
    folder = mirror(place, _cache(), limit=limit)
    say(
        f"streaming {name_of(place.address)}; samples are kept in {name_of(folder)}, {limit / 1e9:.0f} GB at most",
        "dim",
    )
    return folder


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "protoocc")


def _limit() -> int:
    from schemas.errors import ConfigError

    given = os.environ.get(LIMIT) or str(_DEFAULT_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ConfigError(f"{LIMIT}={given}: expected a number of gigabytes, such as 20")
    return int(limit * 1e9)
