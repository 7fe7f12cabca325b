"""Which raw data a work folder was prepared from, where `prepare --root` or `--version` named others than its entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from schemas.errors import DataError
from schemas.files import write_bytes
from schemas.settings import Frozen, describe_validation

RAW: Final = "raw.json"


class RawSource(Frozen):
    """`<work>/raw.json`: what takes the place of fields of the entry; absent where nothing does."""

    root: Path | None = Field(None, description="Raw data folder, absolute; null for the entry's own.")
    version: str | None = Field(None, description="Table folder below root; null for the entry's own.")


def read_raw(work: Path) -> RawSource:
    """What is stored in a work folder; empty where nothing is.

    Raises:
        DataError: the file is damaged.
    """
    path = work / RAW
    if not path.is_file():
        return RawSource(root=None, version=None)
    try:
        return RawSource.model_validate_json(path.read_bytes())
    except ValidationError as error:
        message = describe_validation(f"{path} is damaged", error)
        raise DataError(f"{message}\nRemove it and run `protoocc prepare` with --root and --version again.") from error


def write_raw(work: Path, raw: RawSource) -> None:
    """Stores it for the stages after `prepare`; removes the file where the entry holds as it is.

    Raises:
        DataError: the folder cannot be written.
    """
    if read_raw(work) == raw:
        return
    if raw.root is None and raw.version is None:
        (work / RAW).unlink(missing_ok=True)
    else:
        write_bytes(work / RAW, f"{json.dumps(raw.model_dump(mode='json'), indent=1, sort_keys=True)}\n".encode())
