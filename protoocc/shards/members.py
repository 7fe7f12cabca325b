"""Members of a shard by position: the header in front of each must name what the index says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoocc.shards.folder import ShardSet
from schemas.errors import ConfigError, DataError
from schemas.outside import shorten
from schemas.shard_checks import PACK_AGAIN
from schemas.shards import TAR_BLOCK, SampleEntry

if TYPE_CHECKING:
    from protoocc.shards.cache import SampleCache

_NAME, _SIZE, _KIND, _PREFIX = slice(0, 100), slice(124, 136), slice(156, 157), slice(345, 500)
_PLAIN_FILES = (b"0", b"\0")


class MemberReader:
    """Members of the samples of a split, out of tars here or out of a cache of samples whose tars lie elsewhere."""

    def __init__(self, shards: ShardSet) -> None:
        """Opens nothing yet: files are opened in the process that reads them."""
        self.shards = shards
        self._descriptors: dict[Path, int] = {}
        self._cache: SampleCache | None = None

    def where(self, index: int) -> str:
        """How messages call a sample."""
        shard, sample = self.shards.samples[index]
        remote = self.shards.remote
        return f"{shard if remote is None else f'{remote.address}/{shard.name}'}, sample {sample.key}"

    def read(self, index: int, names: Iterable[str]) -> dict[str, bytes]:
        """Some members of a sample, each checked against the header in front of it.

        Args:
            index: number of the sample.
            names: of its members.

        Raises:
            DataError: the shard cannot be read or ends early, or holds another file than the index says there.
            StageError: the line to it broke too often.
        """
        shard, sample = self.shards.samples[index]
        if self.shards.remote is None:
            where, file = self.where(index), self._descriptor(shard)
            return {name: _member(where, sample, name, self._pread(index, file, name)) for name in names}
        return cut_members(self.where(index), sample, self.cache.read(shard.name, sample), names)

    def fetch(self, index: int) -> None:
        """Brings a sample whose tar lies elsewhere here, if it is not here yet; raises as `read`."""
        shard, sample = self.shards.samples[index]
        if self.shards.remote is not None:
            self.cache.fetch(shard.name, sample)

    def close(self) -> None:
        """Closes all shards that this process opened; reading opens them again."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    @property
    def cache(self) -> SampleCache:
        """Samples from elsewhere."""
        from protoocc.shards.cache import SampleCache

        if self._cache is None:
            if self.shards.remote is None:
                raise ConfigError(f"{self.shards.folder} lies here and has no cache")
            self._cache = SampleCache(self.shards.remote)
        return self._cache

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in this process: a spawned worker opens its own."""
        return {**self.__dict__, "_descriptors": {}, "_cache": None}

    def __del__(self) -> None:
        """Closes the shards."""
        self.close()

    def _descriptor(self, shard: Path) -> int:
        if shard not in self._descriptors:
            try:
                self._descriptors[shard] = os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise DataError(f"cannot open {shard}: {error.strerror}") from error
        return self._descriptors[shard]

    def _pread(self, index: int, descriptor: int, name: str) -> bytes:
        """A member and its header; read by position, so threads and forked processes may share the file."""
        offset, size = self.shards.samples[index][1].members[name]
        try:
            return os.pread(descriptor, TAR_BLOCK + size, offset - TAR_BLOCK)
        except OSError as error:
            raise DataError(f"{self.where(index)}: '{name}' cannot be read: {error.strerror}") from error


def cut_members(where: str, sample: SampleEntry, data: bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Some members out of the bytes of a sample's `span`, each checked against the header in front of it.

    Args:
        where: how messages call the sample.
        sample: its entry in the index.
        data: the bytes.
        names: of members.

    Raises:
        DataError: another file lies there than the index says.
    """
    view, start = memoryview(data), sample.span[0]
    places = {name: sample.members[name] for name in names}
    return {
        name: _member(where, sample, name, bytes(view[offset - TAR_BLOCK - start : offset + size - start]))
        for name, (offset, size) in places.items()
    }


def _member(where: str, sample: SampleEntry, name: str, block: bytes) -> bytes:
    size = sample.members[name][1]
    if len(block) != TAR_BLOCK + size:
        found = max(len(block) - TAR_BLOCK, 0)
        raise DataError(f"{where}: '{name}' ends after {found} of {size} bytes")
    _check_header(where, sample, name, block)
    return block[TAR_BLOCK:]


def _check_header(where: str, sample: SampleEntry, extension: str, block: bytes) -> None:
    name, size = block[_NAME].rstrip(b"\0"), block[_SIZE].rstrip(b"\0 ")
    expected = f"{sample.key}.{extension}".encode(errors="replace")
    kind, prefix = block[_KIND], block[_PREFIX].rstrip(b"\0")  # the prefix stands before the name for other readers
    if (name, size, prefix) == (expected, b"%011o" % sample.members[extension][1], b"") and kind in _PLAIN_FILES:
        return
    found = prefix + b"/" + name if prefix else name
    raise DataError(
        f"{where}: the index has '{extension}' where the shard holds {shorten(found)} of type {shorten(kind)} and "
        f"{shorten(size)} (octal) bytes: index and shard do not belong together. {PACK_AGAIN}"
    )
