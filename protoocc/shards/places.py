"""Where sets of shards lie: a folder, or an address that fsspec opens. Reads are bounded and tried again."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

import aiohttp
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import ConfigError, SetupError, StageError
from schemas.outside import Source

TRIES: Final = 6
"""Failures in a row of one file before it is given up; about half a minute of waiting lies between them."""
FIRST_WAIT_S: Final = 0.5
BLOCK_BYTES: Final = 2**20
PROTOCOLS: Final = {"file": "", "memory": "", "http": "", "https": "", "s3": "s3", "gs": "gs", "hf": "hf"}
"""What an address may start with, and the extra of this package that it needs."""
_WEB: Final = ("http", "https")
_OPTIONS: Final[dict[str, Any]] = {
    "client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)}
}
_LATER: Final = (408, 425, 429)
"""Answers below 500 of servers that ask to be tried again."""
_CREDENTIALS: Final = "Check the address, and the credentials that its library reads from files or variables."
Wait = Callable[[float], None]


class Place:
    """A folder of files here or elsewhere.

    Credentials come from what the libraries read (`~/.aws`, `HF_TOKEN` and so on), never from here.

    Args:
        address: a path, or `https://`, `s3://`, `gs://` or `hf://` and where the folder lies.
        wait: pauses before a file is tried again.
    """

    def __init__(self, address: str, *, wait: Wait = time.sleep) -> None:
        """Opens nothing yet.

        Raises:
            ConfigError: an address of another kind, or one with a name and password or a query.
            SetupError: its library is not installed.
        """
        protocol = address.split("://")[0] if "://" in address else "file"
        self.address = address.rstrip("/") if "://" in address else str(Path(address))
        if protocol not in PROTOCOLS or "::" in address:
            known = ", ".join(f"{name}://" for name in PROTOCOLS if name not in ("file", "memory"))
            raise ConfigError(f"{_public(address)}: expected a folder or an address that starts with {known}")
        parts = _split(self.address)
        if "://" in address and ("@" in parts.netloc or parts.query or parts.fragment):
            raise ConfigError(
                f"{_public(address)}: an address holds no name, password or query; give credentials as the library of "
                f"{protocol}:// reads them"
            )
        self._wait, self._is_web = wait, protocol in _WEB
        self._opened: tuple[int, Any, str] | None = None
        try:
            self._files, self._root  # noqa: B018, opened here to be told of a missing library
        except ImportError as error:
            extra = PROTOCOLS[protocol]
            raise SetupError(f"{protocol}:// needs a library: pip install 'protoocc[{extra}]'") from error

    def __getstate__(self) -> dict[str, Any]:
        """Connections stay in this process."""
        return {**self.__dict__, "_opened": None}

    @property
    def _files(self) -> Any:
        return self._open_here()[1]

    @property
    def _root(self) -> str:
        return self._open_here()[2]

    def _open_here(self) -> tuple[int, Any, str]:
        """The file system of this process: those of fsspec do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            options = _OPTIONS if self._is_web else {}
            self._opened = (os.getpid(), *url_to_fs(self.address, skip_instance_cache=True, **options))
        return self._opened

    @property
    def folder(self) -> Path | None:
        """The folder, where it lies on this machine."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def source(self, name: str, remedy: str = "") -> Source:
        """A file of the folder, for messages."""
        return Source(f"{self.address}/{name}", remedy)

    def read(self, name: str, largest: int) -> bytes | None:
        """A whole small file; None where there is none.

        Raises:
            DataError: it may not be read, or is larger than so many bytes.
            StageError: it could not be read after `TRIES` tries.
        """

        def take() -> bytes:
            with closing(self._open(name)) as file:
                parts, count = [], 0
                while count <= largest and (part := file.read(min(BLOCK_BYTES, largest + 1 - count))):
                    parts.append(part)
                    count += len(part)
                return b"".join(parts)

        try:
            data = self._retry(name, take)
        except FileNotFoundError:
            return None
        if len(data) > largest:
            raise self.source(name).error(f"is larger than the {largest:,} bytes that such a file may have")
        return data

    def blocks(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of a file, block by block; after a failure it goes on where it was.

        Raises:
            DataError: there is no such file, it may not be read, or it lies here and is too short.
            StageError: `TRIES` tries in a row brought nothing.
        """
        position, failures = start, 0
        while position < stop:
            try:
                for block in self._stream(name, position, stop):
                    position, failures = position + len(block), 0
                    yield block
                if position < stop:
                    raise _EndedError(f"ended after {position:,} of {stop:,} bytes")
            except FileNotFoundError as error:
                raise self.source(name).error("not found") from error
            except Exception as error:
                failures += 1
                self._pause(name, error, failures)

    def size(self, name: str) -> int | None:
        """Size of a file, bytes; None where there is none.

        Raises:
            DataError: it may not be read.
            StageError: it could not be asked for.
        """
        self._files.invalidate_cache()
        try:
            found = self._retry(name, lambda: self._files.info(self._path(name)))
        except FileNotFoundError:
            return None
        return None if found.get("type") == "directory" else found.get("size")

    def gives_parts(self, name: str) -> bool:
        """Whether a part of a file can be had without the rest; raises as `size`."""
        if not self._is_web:
            return True

        def ask() -> bool:
            with closing(self._web(name, range(1, 2))) as file:
                return bool(file.r.status == 206)

        return bool(self._retry(name, ask))

    def put(self, name: str, path: Path) -> None:
        """Copies a file of this machine there, whole or not at all as far as the service can.

        Raises:
            ConfigError: nothing can be written to such an address.
            DataError: it may not be written.
            StageError: it could not be written after `TRIES` tries.
        """
        if self._is_web:
            raise ConfigError(f"{self.address}: web servers are read only; push to a folder, s3://, gs:// or hf://")
        if (folder := self.folder) is not None:
            self._copy(folder / name, path)
            return
        self._retry(name, lambda: self._files.put_file(str(path), self._path(name)))

    def _copy(self, target: Path, path: Path) -> None:
        from schemas.files import write_blocks

        with path.open("rb") as file:
            write_blocks(target, iter(lambda: file.read(BLOCK_BYTES), b""))

    def _stream(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        with closing(self._open(name, range(start, stop))) as file:
            left = stop - start
            while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                yield block

    def _open(self, name: str, part: range | None = None) -> Any:
        """An open file, at the start of a part of it; a server that ignores ranges is read from its start."""
        if not self._is_web:
            if self.folder is not None and (path := self.folder / name).exists() and not path.is_file():
                raise _NoFileError("it is no plain file")  # a pipe would be waited for, a device has no end
            file = self._files.open(self._path(name), "rb")
            file.seek(part.start if part else 0)
            return file
        file = self._web(name, part)
        if part is not None and file.r.status != 206:
            _skip(file, part.start)
        return file

    def _web(self, name: str, part: range | None) -> Any:
        """The answer of a web server, which may ignore that a part was asked for."""
        headers = {"Accept-Encoding": "identity"}
        if part is not None:
            headers["Range"] = f"bytes={part.start}-{part.stop - 1}"
        return self._files.open(self._path(name), "rb", block_size=0, size=1, headers=headers)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _retry(self, name: str, work: Callable[[], Any]) -> Any:
        for failures in range(1, TRIES + 1):
            try:
                return work()
            except FileNotFoundError:
                raise
            except Exception as error:
                self._pause(name, error, failures)
        raise AssertionError("the last failure is raised by _pause")

    def _pause(self, name: str, error: Exception, failures: int) -> None:
        """Waits before the next try.

        Raises:
            DataError: trying again would not help.
            StageError: it was tried often enough.
        """
        if not _may_pass(error) or (self.folder is not None and _stays(error)):
            remedy = "" if self.folder or self._is_web else _CREDENTIALS
            raise self.source(name, remedy).error(f"cannot be opened ({_reason(error)})") from error
        if failures >= TRIES:
            raise StageError(
                f"{self.address}/{name}: given up after {failures} tries in a row ({_reason(error)}). Run the same "
                "command again: it goes on where it was."
            ) from error
        self._wait(FIRST_WAIT_S * 2 ** (failures - 1) * random.uniform(1.0, 1.5))


class _EndedError(ConnectionError):
    """A file that has fewer bytes than it should."""


class _NoFileError(OSError):
    """A folder, a pipe or a device where a file is wanted."""


def _stays(error: Exception) -> bool:
    """Whether a file of this machine is what it is, however often it is opened; a network disk may fail and recover."""
    wrong = isinstance(error, _EndedError | _NoFileError | IsADirectoryError | NotADirectoryError)
    return wrong or (isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL))


def _skip(file: Any, count: int) -> None:
    while count > 0 and (block := file.read(min(BLOCK_BYTES, count))):
        count -= len(block)
    if count:
        raise ConnectionError("ended before the place that was asked for")


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status in _LATER
    if isinstance(error, PermissionError):
        return False
    return isinstance(error, OSError | aiohttp.ClientError | FSTimeoutError | asyncio.TimeoutError)


def _reason(error: Exception) -> str:
    """What went wrong, without the address, which the message has and which may carry secrets."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the server answered {error.status} {error.message}".rstrip()
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection"
    if isinstance(error, FSTimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    return (error.strerror or str(error)) if isinstance(error, OSError) and error.strerror else _short(error)


def _short(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}{f': {text}' if isinstance(error, ConnectionError) and text else ''}"


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise ConfigError(f"an address with a host that none can have: {error}") from error


def _public(address: str) -> str:
    """An address without name, password and query."""
    parts = _split(address)
    if not parts.scheme or not parts.netloc:
        return address.split("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
