"""The recipe of docs/shards.md, line by line: shards of a world are published, and somebody else trains on them."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from cli.main import app
from tests.protoocc.loopback import serve

ROOT = Path(__file__).parents[2]
SMALLER = {
    "synth": ["--keyframes", "1", "--width", "400", "--sweeps", "0", "--workers", "1"],
    "prepare": ["--scheduler", "sync"],
    "occupancy": ["--scheduler", "sync"],
    "masks": ["--scheduler", "sync"],
    "pack": ["--scheduler", "sync"],
    "train": ["--set", "schedule.steps=1", "--set", "schedule.warmup_steps=0", "--set", "data.workers=0"],
}
"""Options behind those of the recipe; the last ones count."""


def recipe() -> list[list[str]]:
    """The commands, as lists of words."""
    text = (ROOT / "docs/shards.md").read_text()
    section = text.split("## Publish a set of your own")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    protoocc (.*)$", section, re.MULTILINE)]


def run(words: list[str], addresses: dict[str, str]) -> None:
    words = [next((word.replace(a, b) for a, b in addresses.items() if a in word), word) for word in words]
    result = CliRunner().invoke(app, [*words, *SMALLER.get(words[0], [])])
    assert result.exit_code == 0, f"{shlex.join(words)}: {result.exception!r}\n{result.output}"


def test_every_line_is_a_command_with_options_that_it_has() -> None:
    """The words are read as the command line reads them, and nothing is run."""
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    assert [words[0] for words in recipe()] == [
        *("synth", "prepare", "occupancy", "masks", "pack", "push"),
        *("pull", "train"),
    ]
    for words in recipe():
        with program.make_context("protoocc", [*words]) as context:
            name, command, rest = program.resolve_command(context, words)
            assert command is not None and name == words[0]
            command.make_context(name, rest, parent=context)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed:ResourceWarning")
def test_a_second_person_trains_on_what_the_first_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, there = (tmp_path / name for name in ("first", "second", "there"))
    first.mkdir()
    second.mkdir()
    commands = recipe()
    shutil.copy(ROOT / "datasets.yaml", first)
    monkeypatch.chdir(first)
    for words in commands[:6]:
        run(words, {"s3://my-bucket/streets": str(there)})
    card = (there / "README.md").read_text()
    assert 'license: "cc0-1.0"' in card and "| train | 1 | 3 |" in card
    monkeypatch.chdir(second)
    with serve(there) as server:
        for words in commands[6:]:
            run(words, {"https://my-bucket.example.org/streets": server.address})
    assert (second / "runs/synthetic-demo/report.html").is_file()
    assert (second / "runs/synthetic-demo/checkpoints/step-000001").is_dir()
