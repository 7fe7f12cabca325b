"""Members of a shard by position: the header in front of each must name what the index says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from protoocc.shards.folder import ShardSet
from protoocc.shards.joined import joined_members
from schemas.errors import ConfigError, DataError
from schemas.outside import shorten
from schemas.shard_checks import PACK_AGAIN
from schemas.shards import META_MEMBER, TAR_BLOCK, SampleEntry

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
        """Some members of a sample, each checked against the header in front of it, or made of its camera file.

        Args:
            index: number of the sample.
            names: of its members, with images also where the set holds none.

        Raises:
            DataError: the shard cannot be read or ends early, or holds another file than the index says there.
            StageError: the line to it broke too often.
        """
        manifest, wanted = self.shards.manifest, list(names)
        if manifest.image_files is None or set(wanted) <= set(manifest.extensions):
            return self._stored(index, wanted)
        stored = self._stored(index, [META_MEMBER, *(name for name in wanted if name in manifest.extensions)])
        stored |= joined_members(self.where(index), manifest.image_files, stored[META_MEMBER], self.shards.images)
        return {name: stored[name] for name in wanted}

    def _stored(self, index: int, names: Iterable[str]) -> dict[str, bytes]:
        shard, sample = self.shards.samples[index]
        if self.shards.remote is None:
            file = self._descriptor(shard)
            return {name: self._pread(index, sample, file, name) for name in names}
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

    def _pread(self, index: int, sample: SampleEntry, descriptor: int, name: str) -> bytes:
        """A member, when the header in front of it has been checked.

        Read by position, so threads and forked processes may share the file; header and member each for themselves, as
        cutting one of them off would copy the other.
        """
        offset, size = sample.members[name]
        try:
            header = os.pread(descriptor, TAR_BLOCK, offset - TAR_BLOCK)
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise DataError(f"{self.where(index)}: '{name}' cannot be read: {error.strerror}") from error
        if len(data) != size or not _is_header(header, sample.key, name, size):
            _refuse_member(self.where(index), sample, name, header, len(data))
        return data


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
        name: _cut(where, sample, name, view[offset - TAR_BLOCK - start : offset + size - start])
        for name, (offset, size) in places.items()
    }


def _cut(where: str, sample: SampleEntry, name: str, block: memoryview) -> bytes:
    """A member out of its header and itself."""
    header, size = bytes(block[:TAR_BLOCK]), sample.members[name][1]
    if len(block) != TAR_BLOCK + size or not _is_header(header, sample.key, name, size):
        _refuse_member(where, sample, name, header, len(block) - TAR_BLOCK)
    return bytes(block[TAR_BLOCK:])


def _is_header(header: bytes, key: str, name: str, size: int) -> bool:
    """Whether a header is that of a plain file of this name and size; other readers put a prefix before the name."""
    expected = f"{key}.{name}".encode(errors="replace").ljust(_NAME.stop, b"\0")
    is_file = header[_KIND] in _PLAIN_FILES and not header[_PREFIX].strip(b"\0")
    return is_file and header[_NAME] == expected and header[_SIZE].rstrip(b"\0 ") == b"%011o" % size


def _refuse_member(where: str, sample: SampleEntry, name: str, header: bytes, found: int) -> NoReturn:
    """Raises the `DataError` of a member that ends after so many bytes, or whose header is another one."""
    size = sample.members[name][1]
    if found != size:
        raise DataError(f"{where}: '{name}' ends after {max(found, 0)} of {size} bytes")
    prefix, length = header[_PREFIX].rstrip(b"\0"), header[_SIZE].rstrip(b"\0 ")
    there = b"/".join(part for part in (prefix, header[_NAME].rstrip(b"\0")) if part)
    raise DataError(
        f"{where}: the index has '{name}' where the shard holds {shorten(there)} of type {shorten(header[_KIND])} and "
        f"{shorten(length)} (octal) bytes: index and shard do not belong together. {PACK_AGAIN}"
    )
