"""Raw files that a stage read: their size, time and contents, and whether they are still the same.

A file of the same size and time counts as unchanged. Where the time differs, as in a copy of a dataset, its contents
decide, so copies are accepted, only slower; `--check-inputs` compares the contents of all. A file that is gone changes
nothing that was made from it: whoever needs it finds out, and sweeps may be deleted once labels are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipelines.files import sha256_of
from schemas.errors import DataError
from schemas.workfolder import FileStamp


def stamp_files(root: Path | None, paths: Iterable[Path]) -> dict[str, FileStamp | None]:
    """Stamps of files by their name in a marker, None for those that are not there.

    Args:
        root: of the dataset; files below it get relative names, so that a dataset may move.
        paths: files, in any order; a file may occur twice.
    """
    return {_name(root, path): stamp(path) for path in sorted(set(paths))}


def stamp(path: Path) -> FileStamp | None:
    """Size, time and contents of a file; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns, sha256_of([path])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Correct its permissions or restore it.") from error


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
        if old is None:
            yield f"{path}: was not there, now is a file of {status.st_size:,} bytes"
        elif status.st_size != old[0]:
            yield f"{path}: was {old[0]:,} bytes, now {status.st_size:,}"
        elif (deep or status.st_mtime_ns != old[1]) and sha256_of([path]) != old[2]:
            yield f"{path}: same size, other contents than when it was read"


def _name(root: Path | None, path: Path) -> str:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(path)
