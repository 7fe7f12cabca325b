"""Names that people give, as names of files: one function for everything that becomes a file or a member of a tar."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Final

_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_OTHER: Final = re.compile(r"[^a-z0-9_-]+")
_SHOWN: Final = 32
_DIGITS: Final = 10


def file_key(name: str) -> str:
    """A name that every file system and tar takes, different for different names.

    Names of up to 48 small letters, digits, `-` and `_` stay as they are. All others (dots, separators, capital
    letters, which some disks do not tell apart, or too many of them) become what is plain in them, `=` and ten digits
    of their SHA-256; no plain name holds a `=`.
    """
    if _PLAIN.fullmatch(name):
        return name
    plain = _OTHER.sub("-", name.lower()).strip("-_")[:_SHOWN]
    return f"{plain}={hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:_DIGITS]}"


def folder_of(scene: str) -> str:
    """Folder of a scene in label sets of others: its name, slashes included, unless that would leave the label set."""
    parts = PurePosixPath(scene).parts
    is_inside = bool(parts) and not scene.startswith("/") and ".." not in parts and "\0" not in scene
    return scene if is_inside else file_key(scene)
