"""Which code made a number: release and, in a checkout, the commit."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def release() -> str:
    """Version of the installed distribution, ``0`` where none is."""
    try:
        return version("protoocc")
    except PackageNotFoundError:
        return "0"


def code_version() -> str:
    """Release and commit, such as ``0.1.0+1a2b3c4d5e6f`` or, with local changes, ``0.1.0+1a2b3c4d5e6f-dirty``.

    Without git, or for a copy that is not under version control, only the release.
    """
    here, number = Path(__file__), release()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return number
    commit = _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return number if commit is None else f"{number}+{commit}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
