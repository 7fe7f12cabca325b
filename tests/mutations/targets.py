"""One kind of damaged file, and how what was read of it is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.mutations import mutate


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: for reports.
        file: which one is damaged, below the folder.
        read: reads the folder; returns a digest of what it got. It asserts that the values are possible.
        mutators: ways to damage it.
        install: puts the damaged bytes into the folder; writes the file by default.
    """

    name: str
    file: str
    read: Callable[[Path], str]
    mutators: Sequence[mutate.Mutator]
    install: Callable[[Path, bytes], None] | None = None
    original: bytes | None = None
    """What is damaged; the file's own bytes by default."""
    is_copied: bool = False
    """Whether readers only pass the file on or make it anew, so that damage of it may be no fault."""


def digest(*arrays: np.ndarray) -> str:
    """Of values, shapes and types."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
