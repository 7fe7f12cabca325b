"""From an exception to what the user reads and the exit code: 2 for what the user can solve, 1 for a bug."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cli.again import complete_commands
from cli.say import console, say

LIBRARIES: Final = {
    "libGL.so": "libgl1",
    "libgthread-2.0": "libglib2.0-0",
    "libglib-2.0": "libglib2.0-0",
    "libSM.so": "libsm6",
    "libXext.so": "libxext6",
    "libXrender.so": "libxrender1",
    "libX11.so": "libx11-6",
    "libxcb.so": "libxcb1",
    "libgomp.so": "libgomp1",
    "libstdc++.so": "libstdc++6",
    "libEGL.so": "libegl1",
    "libz.so": "zlib1g",
}
"""Shared library -> package of Debian and Ubuntu that holds it."""

_SHARED_OBJECT: Final = re.compile(r"(lib[^\s:/]+\.so[\d.]*): cannot open shared object file")


@dataclass(frozen=True)
class Failure:
    """What is printed and how the program ends."""

    text: str
    code: int

    def print(self) -> None:
        """One message on standard error."""
        if self.code == 2:
            console.print("[bold red]error:[/] ", end="")
        say(self.text)


def failure_of(error: BaseException) -> Failure:
    """The message of an exception that reached the command line."""
    from schemas.errors import ProtoOccError, describe_os_error

    if isinstance(error, ProtoOccError):
        return Failure(complete_commands(str(error)), 2)
    if isinstance(error, ImportError | OSError) and (advice := missing_library(str(error))):
        return Failure(advice, 2)
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return Failure(f"no memory to load a library, or its disk forbids to run it (noexec): {error}", 2)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return Failure(f"the Python package {error.name} is missing; `protoocc doctor` prints how to repair it", 2)
    if isinstance(error, OSError) and (sentence := describe_os_error(error)):
        return Failure(sentence.replace("\n", "\\n"), 2)
    if isinstance(error, MemoryError):
        return Failure("the machine has no memory left; use fewer --workers, a smaller batch or smaller images", 2)
    return Failure(f"bug: {type(error).__name__}: {error}\nRun again with --debug for the traceback.", 1)


def missing_library(message: str) -> str:
    """What to install when a loader's message names a shared library that is not there; empty for other messages."""
    found = _SHARED_OBJECT.search(message)
    if found is None:
        return ""
    library = found.group(1)
    package = next((package for name, package in LIBRARIES.items() if library.startswith(name)), None)
    if package is None:
        return f"the system library {library} is missing; install the package of your system that holds it"
    return f"the system library {library} is missing: sudo apt-get install {package} (another system: its package)"
