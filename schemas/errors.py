"""Errors that people can act on: each message names the file, the value, the expectation and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ProtoOccError(Exception):
    """A problem that the user can solve; the command line prints it and exits with code 2."""


class ConfigError(ProtoOccError):
    """A setting, a field of `datasets.yaml` or a command line value is wrong."""


class DataError(ProtoOccError):
    """A dataset, a stored array or a file is missing, broken or inconsistent."""


class StageError(ProtoOccError):
    """A stage could not finish; names the units and samples that failed."""


class CheckpointError(ProtoOccError):
    """A checkpoint is unreadable or does not fit the network."""


class SetupError(ProtoOccError):
    """The installation or the machine lacks something; the message holds the repair command."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission or a read-only folder met while writing ``path`` into a `DataError`.

    Raises:
        DataError: names the path and what to free or change.
    """
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free space or choose another folder",
            errno.EDQUOT: "the disk quota is used up; free space or choose another folder",
            errno.EFBIG: "the file grew over the allowed size; raise the limit (ulimit -f)",
            errno.EACCES: "permission denied; choose a folder that you may write",
            errno.EEXIST: "a file stands where a folder is wanted; move it or choose another folder",
            errno.ENOTDIR: "a file stands where a folder is wanted; move it or choose another folder",
            errno.EISDIR: "a folder stands where a file is wanted; move it",
            errno.EROFS: "the file system is read-only; choose another folder",
        }
        if error.errno not in reasons:
            raise
        raise DataError(f"cannot write {path}: {reasons[error.errno]}") from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns a missing permission, a folder in place of a file and other trouble met while reading ``path`` into one.

    Raises:
        DataError: names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise DataError(f"{name} cannot be read: {error.strerror or error}. Restore it, or its permissions.") from error
