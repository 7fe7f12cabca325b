"""Which code made a number: release and, in a checkout, the commit."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """Release and commit, such as ``0.1.0+1a2b3c4d5e6f`` or, with local changes, ``0.1.0+1a2b3c4d5e6f-dirty``.

    Without git, or for a copy that is not under version control, only the release.
    """
    try:
        release = version("protoocc")
    except PackageNotFoundError:
        release = "0"
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return release
    commit = _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return release if commit is None else f"{release}+{commit}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
