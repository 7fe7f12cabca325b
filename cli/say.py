"""The one place that prints sentences: what they quote is shown as it is, on any terminal."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, NoReturn

from rich.console import Console
from rich.text import Text

LONGEST_LINE: Final = 4000
"""Characters of a line that are printed whole; paths of the longest kind fit."""

PIPE_WIDTH: Final = 500
"""Characters of a table that nobody looks at on a terminal."""

console = Console(stderr=True, highlight=False)
"""Standard error: bars, summaries, errors. Answers go to standard output, so that they can be piped."""


class _Answers(Console):
    def on_broken_pipe(self) -> None:
        """Whoever reads has had enough, such as `head`: nothing is wrong."""
        end_pipe()


def end_pipe() -> NoReturn:
    """Ends the program when nobody reads its answer any more."""
    _discard_output()
    raise SystemExit(0)


def drop_unwritten() -> None:
    """Throws away what standard output could not take, over which the interpreter would fail again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def answers() -> Console:
    """Standard output for tables; in a file or pipe they are as wide as they need, so that no name is cut."""
    return _Answers(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)


def ready_streams() -> None:
    """Lets standard output and error write a character that the terminal's encoding lacks as an escape.

    Where the shell has closed one of them (`>&-`), what goes there is lost and nothing fails.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115, lives as long as the program
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, style: str = "", *, to: Console | None = None) -> None:
    """Prints a sentence; brackets in it are no markup and nothing is coloured but the whole of it.

    Args:
        text: lines to print; control characters are escaped, very long lines lose their middle.
        style: a colour of Rich for all of it.
        to: standard error by default.
    """
    (to or console).print(shown(text, style), soft_wrap=True)


def shown(text: object, style: str = "") -> Text:
    """A cell or line for Rich that shows ``text`` as it is."""
    return Text("\n".join(_line(line) for line in str(text).split("\n")), style=style)


def name_of(text: object) -> str:
    """A path or name for the middle of a sentence: one line, whatever it holds."""
    return str(text).replace("\n", "\\n")


def _line(line: str) -> str:
    safe = "".join(char if char.isprintable() or char == "\t" else _escaped(char) for char in line)
    if len(safe) <= LONGEST_LINE:
        return safe
    half = LONGEST_LINE // 2
    return f"{safe[:half]} ... ({len(safe) - LONGEST_LINE} characters left out) ... {safe[-half:]}"


def _escaped(char: str) -> str:
    """Spaces of other widths stay, terminal commands and broken characters become visible."""
    return char if char.isspace() and ord(char) >= 0xA0 else char.encode("unicode_escape").decode()
