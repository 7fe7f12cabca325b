"""Where something from outside came from, for messages, and its bytes up to a limit."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.errors import DataError, raise_machine_fault
from schemas.outside.limits import SHOWN

_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = SHOWN
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 8


@dataclass(frozen=True)
class Source:
    """What is read, and what to do when it cannot be.

    Attributes:
        where: file, and sample or member, at the start of every message.
        remedy: sentence at its end.
    """

    where: str
    remedy: str = ""

    def error(self, reason: str) -> DataError:
        """The error to raise: ``<where>: <reason>. <remedy>``."""
        return DataError(f"{self.where}: {reason}. {self.remedy}".rstrip())

    def damaged(self, reason: object) -> DataError:
        """The error of a file that is cut, changed or of another kind: ``<where> is damaged: <reason>. <remedy>``."""
        return DataError(f"{self.where} is damaged: {reason}. {self.remedy}".rstrip())


def shorten(value: Any) -> str:
    """A foreign value for a message: its repr, cut after `limits.SHOWN` characters and three levels."""
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits have no text
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def read_lines(source: Source, path: Path, largest: int) -> Iterator[bytes]:
    """Lines of a file, one after the other, each with its newline.

    Args:
        source: for messages.
        path: the file.
        largest: bytes that a line may have.

    Raises:
        DataError: it cannot be read or a line is longer.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(largest + 1):
                if len(line) > largest:
                    raise source.error(f"has a line of over {largest:,} bytes")
                yield line
    except OSError as error:
        raise_machine_fault(error)
        raise source.error(f"cannot be read ({error.strerror})") from error


def read_bytes(source: Source, path: Path, largest: int) -> bytes:
    """A whole file.

    Args:
        source: for messages.
        path: the file.
        largest: size in bytes that it may have; a larger one is not read.

    Raises:
        DataError: it cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError as error:
        raise source.error("not found") from error
    except OSError as error:
        raise_machine_fault(error)
        raise source.error(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise source.error(f"cannot be read ({error})") from error
    if len(data) > largest:
        raise source.error(f"is larger than the {largest:,} bytes that such a file may have")
    return data
