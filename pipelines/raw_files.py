"""Raw files that a stage read: their size, time and contents, and whether they are still the same.

A file of the same size and time counts as unchanged. Where the time differs, as in a copy of a dataset, its contents
decide, so copies are accepted, only slower; `--check-inputs` compares the contents of all. A file that is gone changes
nothing that was made from it: whoever needs it finds out, and sweeps may be deleted once labels are made. Of a folder
the names in it count, so that sweeps that arrive later are seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISDIR

from pipelines.files import names_fingerprint, sha256_of
from schemas.errors import raise_machine_fault
from schemas.workfolder import FileStamp


def stamp_files(root: Path | None, paths: Iterable[Path]) -> dict[str, FileStamp | None]:
    """Stamps of files by their name in a marker, None for those that are not there.

    Args:
        root: of the dataset; files below it get relative names, so that a dataset may move.
        paths: files, in any order; a file may occur twice.
    """
    return {_name(root, path): stamp(path) for path in sorted(set(paths))}


def stamp(path: Path) -> FileStamp | None:
    """Size, time and contents of a file, of a folder the number, time and hash of its names.

    None where nothing is that can be read: whoever needed it has said so.
    """
    try:
        status = path.stat()
        if S_ISDIR(status.st_mode):
            return sum(1 for _ in path.iterdir()), status.st_mtime_ns, names_fingerprint(path)
        return status.st_size, status.st_mtime_ns, sha256_of([path])
    except OSError as error:
        raise_machine_fault(error)
        return None


def changed_files(root: Path | None, read: Mapping[str, FileStamp | None], *, deep: bool) -> Iterator[str]:
    """What has changed or come since files were stamped: one phrase per file, with was and now.

    Args:
        root: of the dataset as it is now.
        read: from `stamp_files`.
        deep: compare the contents of every file, not only of those whose time differs.
    """
    for name, old in read.items():
        path = Path(name) if root is None else root / name
        try:
            status = path.stat()
        except OSError:
            continue
        if S_ISDIR(status.st_mode):
            yield from _changed_folder(path, status.st_mtime_ns, old, deep=deep)
        elif old is None:
            if path.is_file() and os.access(path, os.R_OK):
                yield f"{path}: was not there, now is a file of {status.st_size:,} bytes"
        elif status.st_size != old[0]:
            yield f"{path}: was {old[0]:,} bytes, now {status.st_size:,}"
        elif (deep or status.st_mtime_ns != old[1]) and sha256_of([path]) != old[2]:
            yield f"{path}: same size, other contents than when it was read"


def _changed_folder(path: Path, mtime_ns: int, old: FileStamp | None, *, deep: bool) -> Iterator[str]:
    if old is None:
        yield f"{path}: was not there, now is a folder"
    elif (deep or mtime_ns != old[1]) and names_fingerprint(path) != old[2]:
        count = sum(1 for _ in path.iterdir())
        if count >= old[0]:
            yield f"{path}: had {old[0]:,} files, now others ({count:,}) are there"


def _name(root: Path | None, path: Path) -> str:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(path)
