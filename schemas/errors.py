"""Errors that people can act on: each message names the file, the value, the expectation and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final


class ProtoOccError(Exception):
    """A problem that the user can solve; the command line prints it and exits with code 2."""


class ConfigError(ProtoOccError):
    """A setting, a field of `datasets.yaml` or a command line value is wrong."""


class DataError(ProtoOccError):
    """A dataset, a stored array or a file is missing, broken or inconsistent."""


class WriteError(DataError):
    """A file cannot be written: the disk is full, read-only or forbidden. No sample is to blame."""


class StageError(ProtoOccError):
    """A stage could not finish; names the units and samples that failed."""


class CheckpointError(ProtoOccError):
    """A checkpoint is unreadable or does not fit the network."""


class SetupError(ProtoOccError):
    """The installation or the machine lacks something; the message holds the repair command."""


_REASONS: Final = {
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied; change its permissions or choose another place",
    errno.EPERM: "operation not permitted; change its permissions or choose another place",
    errno.EISDIR: "it is a folder, a file is wanted",
    errno.ENOTDIR: "a part of the path is a file, a folder is wanted",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free space or choose another place",
    errno.EFBIG: "the file grew over the allowed size; raise the limit (ulimit -f)",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n 4096) or use fewer --workers",
    errno.ENFILE: "the machine has too many open files; close programs or use fewer --workers",
    errno.ENOMEM: "the machine has no memory left; use fewer --workers",
    errno.EIO: "the disk or network storage failed to read or write; check it",
    errno.ESTALE: "the network storage lost the file; mount it again",
}


def describe_os_error(error: OSError) -> str | None:
    """One sentence for a failed call of the operating system: which file and why; None where it names neither.

    Failures without a file name count only where the user can do something about them, such as a full disk.
    """
    reason = _REASONS.get(error.errno or 0)
    if error.filename is None:
        return None if reason is None or error.errno == errno.ENOENT else reason
    names = [str(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(names) or error.filename}: {reason or error.strerror or type(error).__name__}"


_OF_THE_MACHINE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


def raise_machine_fault(error: BaseException) -> None:
    """Called where a file cannot be read, before the file is blamed and perhaps left out.

    Raises:
        SetupError: the machine is what failed: no more open files, no memory, a lost mount.
    """
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        raise SetupError(describe_os_error(error)) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to append to a message about an unknown word; empty where no known one is near."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f" Did you mean {names[near[0]]}?" if near else ""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission or a read-only folder met while writing ``path`` into a `WriteError`.

    Raises:
        WriteError: names the path and what to free or change.
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
        raise WriteError(f"cannot write {path}: {reasons[error.errno]}") from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns a missing permission, a folder in place of a file and other trouble met while reading ``path`` into one.

    Raises:
        DataError: names the file and the reason.
        SetupError: the machine is at fault.
    """
    try:
        yield
    except OSError as error:
        raise_machine_fault(error)
        name = error.filename or path
        raise DataError(f"{name} cannot be read: {error.strerror or error}. Restore it, or its permissions.") from error
