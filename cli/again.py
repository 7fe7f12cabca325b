"""Commands in messages: they get the places that this run was given, so that they can be copied as they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cli.given import places

_COMMAND: Final = re.compile(r"protoocc (prepare|occupancy|masks|pack|status|train|eval|view)\b(?P<rest>[^`\n]*)")
_LEARNING: Final = ("train", "eval", "view")


def complete_commands(text: str) -> str:
    """The text with the dataset and the folders of the running command in each command that lacks them.

    Without this, a repair that was asked for with `--out work/b` would name a command that makes `work/a` anew.
    Commands stand in backticks or end their line.
    """
    known = places()
    return _COMMAND.sub(lambda found: _completed(found[1], found[2], known), text) if known else text


def _completed(command: str, rest: str, known: Mapping[str, object]) -> str:
    if command in _LEARNING and "out" in known:
        rest = re.sub(r" --dataset ('[^']*'|\S+)", "", rest)
    words = [shlex.quote(str(word)) for word in _missing(command, rest, known)]
    return " ".join([f"protoocc {command}{rest}", *words])


def _missing(command: str, rest: str, known: Mapping[str, object]) -> Iterator[object]:
    """Options with their values that the command needs and lacks."""
    wanted = dict(_wanted(command, known))
    if command == "prepare" and re.match(r" [^-\s]", rest):
        wanted.pop("", None)
    for option, value in wanted.items():
        if f"{option} " not in f"{rest} " or not option:
            yield from (option, value) if option else (value,)


def _wanted(command: str, known: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    from schemas.workfolder import WorkFolder

    if command in _LEARNING and ("out" in known or "shards" in known):
        yield "--shards", known.get("shards") or WorkFolder(Path(str(known["out"]))).shards
        return
    known = {"name": known["entry"], **known} if "entry" in known else known
    options = {"name": "" if command == "prepare" else "--dataset", "datasets": "--datasets"}
    if command not in _LEARNING:
        options["out"] = "--out"
    if command == "prepare":
        options |= {"root": "--root", "version": "--version"}
    yield from ((option, known[name]) for name, option in options.items() if name in known)
