"""The help of every command as a user sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_help_shows_all_of_its_text(words: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<work>/shards` must not end as `/shards`: what looks like a tag is text."""
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    page = squeezed(result.output)
    for parameter in command.params:
        help = (getattr(parameter, "help", "") or "").replace("`", "").replace("  [default: runs]", "")
        assert squeezed(help) in page, f"{parameter.name}: {help}"
    assert "Examples:" in page
    for example in re.findall(r"^ *(protoocc .*)$", command.help, re.MULTILINE):
        assert squeezed(example) in page


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 15


def squeezed(text: str) -> str:
    """Without boxes and line breaks."""
    return " ".join(re.sub(r"[│|╭╮╰╯─+]", " ", text).split())
