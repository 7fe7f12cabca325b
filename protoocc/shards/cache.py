"""Samples of shards that lie elsewhere, one file each, named by their SHA-256 and checked by it whenever they are read.

Any number of processes and runs may share a cache. It is bounded: the samples that were not read for the longest time
go first.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from protoocc.shards.places import Place
from protoocc.shards.remote import Remote
from schemas.errors import DataError, disk_errors
from schemas.shards import SampleEntry

SAMPLES: Final = "samples"
"""Folder of the cache."""
_SWEEP_SHARE: Final = 16
"""The cache is measured whenever a process has added this part of its limit."""
_KEPT_SHARE: Final = 0.9
"""Of the limit, what stays when it was passed."""


class SampleCache:
    """Reads samples through the cache of a mirror."""

    def __init__(self, remote: Remote, place: Place | None = None) -> None:
        """Opens nothing yet.

        Args:
            remote: the mirror.
            place: where its tars lie, opened already.
        """
        self.folder, self.limit = remote.folder / SAMPLES, remote.limit
        self.place = Place(remote.address) if place is None else place
        self._added, self._counting = self.limit, threading.Lock()

    def read(self, shard: str, sample: SampleEntry) -> bytes:
        """The bytes of a sample's `span`.

        Args:
            shard: file name of its tar.
            sample: where it lies there.

        Raises:
            DataError: its bytes are not those of the index, or the cache cannot be written.
            StageError: the line broke too often.
        """
        kept = self._kept(sample)
        return self._fetched(shard, sample) if kept is None else kept

    def fetch(self, shard: str, sample: SampleEntry) -> None:
        """Brings a sample into the cache if it is not there; raises as `read`."""
        if not self._is_there(sample):
            self._fetched(shard, sample)

    def _kept(self, sample: SampleEntry) -> bytes | None:
        path = self._path(sample)
        try:
            data = path.read_bytes() if self._is_there(sample) else b""
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sample.sha256:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def _is_there(self, sample: SampleEntry) -> bool:
        """Whether a file of the right size is there, which nobody has looked into yet."""
        try:
            found = self._path(sample).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == sample.span[1] - sample.span[0]

    def _fetched(self, shard: str, sample: SampleEntry) -> bytes:
        start, stop = sample.span
        for _ in range(2):
            data = b"".join(self.place.blocks(shard, start, stop))
            if hashlib.sha256(data).hexdigest() == sample.sha256:
                self._keep(sample, data)
                return data
        raise DataError(
            f"{self.place.address}/{shard}, sample {sample.key}: its bytes do not have the sha256 {sample.sha256} of "
            "the index: changed on the way or there. Try again, or ask whoever published the shards."
        )

    def _keep(self, sample: SampleEntry, data: bytes) -> None:
        path = self._path(sample)
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        with self._counting:
            self._added += len(data)
            if self._added < self.limit // _SWEEP_SHARE:
                return
            self._added = 0
        self._sweep()

    def _sweep(self) -> None:
        """Removes what was not read for the longest time, down to a share of the limit; others may do the same."""
        files = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in sorted(files):
            if total <= _KEPT_SHARE * self.limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, sample: SampleEntry) -> Path:
        digest = sample.sha256 or ""
        return self.folder / digest[:2] / digest
