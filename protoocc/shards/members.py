"""Members of a shard by position: the header in front of each must name what the index says."""

from __future__ import annotations

import os
from pathlib import Path

from protoocc.shards.manifest import PACK_AGAIN
from schemas.errors import DataError
from schemas.outside import shorten
from schemas.shards import TAR_BLOCK, SampleEntry

_NAME, _SIZE, _KIND = slice(0, 100), slice(124, 136), slice(156, 157)
_PLAIN_FILES = (b"0", b"\0")


def open_shard(shard: Path) -> int:
    """Opens a shard for `read_member`; the caller closes the descriptor.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise DataError(f"cannot open {shard}: {error.strerror}") from error


def read_member(shard: Path, sample: SampleEntry, extension: str, descriptor: int) -> bytes:
    """Bytes of one member of a sample, read together with its header.

    Args:
        shard: path of the tar, for messages.
        sample: where its members lie.
        extension: which member.
        descriptor: open file of the shard; it is read by position, so threads and forked processes may share it.

    Raises:
        DataError: the shard cannot be read or ends early, or holds another file than the index says there.
    """
    offset, size = sample.members[extension]
    try:
        block = os.pread(descriptor, TAR_BLOCK + size, offset - TAR_BLOCK)
    except OSError as error:
        raise DataError(f"{shard}, sample {sample.key}: '{extension}' cannot be read: {error.strerror}") from error
    if len(block) != TAR_BLOCK + size:
        found = max(len(block) - TAR_BLOCK, 0)
        raise DataError(f"{shard}, sample {sample.key}: '{extension}' ends after {found} of {size} bytes")
    _check_header(shard, sample, extension, block)
    return block[TAR_BLOCK:]


def _check_header(shard: Path, sample: SampleEntry, extension: str, block: bytes) -> None:
    name, size = block[_NAME].rstrip(b"\0"), block[_SIZE].rstrip(b"\0 ")
    expected = f"{sample.key}.{extension}".encode(errors="replace")
    if name == expected and size == b"%011o" % sample.members[extension][1] and block[_KIND] in _PLAIN_FILES:
        return
    raise DataError(
        f"{shard}, sample {sample.key}: the index has '{extension}' where the shard holds {shorten(name)} of "
        f"{shorten(size)} (octal) bytes: index and shard do not belong together. {PACK_AGAIN}"
    )
